package registry

import (
	"os"
	"unsafe"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// unmapped gives the pages of a database's file back that were read once, for all
// records, and hardly will be again: they would count as the process's. They stay in
// the kernel's cache, and who looks at one has it again.
func unmapped(db *bolt.DB) {
	info, err := os.Stat(db.Path())
	if err != nil || info.Size() == 0 {
		return
	}
	page := int64(os.Getpagesize())
	all := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&db.Info().Data))), (info.Size()+page-1)/page*page)
	_ = unix.Madvise(all, unix.MADV_DONTNEED) // a kindness
}
