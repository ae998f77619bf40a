package registry

import (
	"os"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// unmapped gives the pages of a database's file back to the kernel's cache, where they
// stay for who looks again. Mapped, they count as the process's memory: all of them
// after a start, which reads every record, and two megabytes for each record that is
// looked at later, because the kernel maps a huge page of its cache as a whole
// (FilePmdMapped in smaps). So it is told not to. A transaction of db must be open, or
// the mapping may be another by now.
func unmapped(db *bolt.DB) {
	info, err := os.Stat(db.Path())
	if err != nil || info.Size() == 0 {
		return
	}
	page := int64(os.Getpagesize())
	all := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&db.Info().Data))), (info.Size()+page-1)/page*page)
	_ = unix.Madvise(all, unix.MADV_NOHUGEPAGE) // both are a kindness
	_ = unix.Madvise(all, unix.MADV_DONTNEED)
}
