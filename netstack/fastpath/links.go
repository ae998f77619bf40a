//go:build linux

package fastpath

import (
	"errors"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// EachLink shows do all links of BPF programs, of all network namespaces, one after the
// other. One that somebody is making just now cannot be had yet (EAGAIN, Linux 5.8): it is
// asked for again, for a tenth of a second.
func EachLink(do func(*link.Iterator)) error {
	it := new(link.Iterator)
	defer func() { it.Close() }()
	for tries := 0; ; tries++ {
		for it.Next() {
			do(it)
		}
		if err := it.Err(); !errors.Is(err, unix.EAGAIN) || tries == 100 {
			return err
		}
		time.Sleep(time.Millisecond)
		it = &link.Iterator{ID: it.ID}
	}
}
