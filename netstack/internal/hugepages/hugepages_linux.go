// Package hugepages has what is looked up at random in tens of megabytes stand on large
// pages, so that the processor need not look for where each small page is first. It is
// advice: nothing depends on it, and where the kernel has none, all stays as it is.
package hugepages

import (
	"iter"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// size is that of a large page, where it is not another: then the kernel says so.
const size = 2 << 20

// Parts are places in memory and how long each is. Who gives them keeps them alive.
type Parts = iter.Seq2[unsafe.Pointer, uintptr]

// Advise makes large pages of those pieces of memory, of a large page's size, of which
// the parts take at least half. They may be anywhere in Go's heap: what else is there is
// not disturbed, and Go's allocator knows nothing of it. It takes about half a
// millisecond for each, in which who writes there waits.
//
// The whole heap would have them, too, if it were for a setting of the host
// (/sys/kernel/mm/transparent_hugepage/enabled: always), which is not ours to change.
// That costs memory where little is used of much; here it is half of a piece at most.
func Advise(parts Parts) (pieces int, err error) {
	taken := map[uintptr]uintptr{}
	for p, n := range parts {
		for at, end := uintptr(p), uintptr(p)+n; at < end; {
			next := min(end, at&^(size-1)+size)
			taken[at/size] += next - at
			at = next
		}
	}
	var full []uintptr
	for piece, n := range taken {
		if n >= size/2 {
			full = append(full, piece*size)
		}
	}
	slices.Sort(full)
	for _, at := range full {
		// The address is a number: no memory is read or changed, and it does not matter if
		// it is another's by now.
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, at, size, unix.MADV_COLLAPSE) // since Linux 6.1
		if errno != 0 {
			err = errno // there is no such advice, or no large page is free
			continue
		}
		pieces++
	}
	if pieces > 0 {
		err = nil
	}
	return pieces, err
}
