//go:build linux

package fastpath

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// fewLookups is up to how many entries are looked up one by one: a system call takes as
// long as a batch of so many.
const fewLookups = 2

// batch is what one system call reads of an array.
type batch struct {
	keys   []uint32
	values []programTraffic
	before uint32 // the key before the first
	out    uint32
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// batchAttr is union bpf_attr of BPF_MAP_LOOKUP_BATCH (bpf(2), Linux 5.6).
type batchAttr struct {
	in, out, keys, values uint64
	count, fd             uint32
	elemFlags, flags      uint64
}

// neighbours reads n entries of an array from one on, and sums them up. The library's own
// batches (ebpf.Map.BatchLookup) begin at an array's first entry, wherever one wants to
// begin: on a host of a hundred CPUs the counters of one mapping would take as many
// system calls.
func neighbours(m *ebpf.Map, first uint32, n int, t *Traffic) error {
	b := batches.Get().(*batch)
	defer batches.Put(b)
	if len(b.keys) < n {
		b.keys, b.values = make([]uint32, n), make([]programTraffic, n)
	}
	var pins runtime.Pinner // the kernel is given their addresses as numbers
	defer pins.Unpin()
	address := func(p any, at unsafe.Pointer) uint64 { pins.Pin(p); return uint64(uintptr(at)) }
	attr := batchAttr{count: uint32(n), fd: uint32(m.FD()), out: address(&b.out, unsafe.Pointer(&b.out)),
		keys: address(&b.keys[0], unsafe.Pointer(&b.keys[0])), values: address(&b.values[0], unsafe.Pointer(&b.values[0]))}
	if first > 0 {
		b.before = first - 1
		attr.in = address(&b.before, unsafe.Pointer(&b.before))
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_BATCH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	switch {
	case errno != 0 && errno != unix.ENOENT: // ENOENT: these were the last
		return errno
	case attr.count != uint32(n):
		return errors.New("the kernel has fewer entries than the map was made with")
	}
	for _, c := range b.values[:n] {
		t.add(c)
	}
	return nil
}
