//go:build linux

package fastpath

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/reference"
)

// What a program says (TCX_NEXT, TC_ACT_REDIRECT, TC_ACT_SHOT).
const (
	actNext     = ^uint32(0)
	actRedirect = 7
	actShot     = 2

	xdpPass     = 2
	xdpRedirect = 4
)

// maxRun is the longest packet that BPF_PROG_TEST_RUN takes: a page, without
// what the kernel needs around the packet.
const maxRun = 3300

// runner runs one program on packets by BPF_PROG_TEST_RUN. It does without the
// library's allocations, of which there would be millions.
type runner struct {
	program int
	attr    struct {
		program, result         uint32
		sizeIn, sizeOut         uint32
		in, out                 uint64
		repeat, duration        uint32
		contextIn, contextOut   uint32
		contextAt, contextOutAt uint64
		flags, cpu, batch, _    uint32
	}
	context struct { // struct __sk_buff
		_       [2]uint32
		mark    uint32
		_       [7]uint32
		ifindex uint32
		_       [30]uint32
		gsoSegs uint32
		_       [2]uint32
		gsoSize uint32
		_       [3]uint32
	}
	xdp struct { // struct xdp_md
		_       uint32
		dataEnd uint32
		_       uint32
		ifindex uint32
		_       [2]uint32
	}
	front   bool // the program is XDP
	in, out [4096]byte
}

const sizeEthernet = 14

func newRunner(program, ifindex int, mac net.HardwareAddr) *runner {
	r := &runner{program: program}
	copy(r.in[:], mac)
	copy(r.in[6:], []byte{2, 0, 0, 0, 0, 9})
	r.context.ifindex = uint32(ifindex)
	return r
}

// newFrontRunner runs a program in front of traffic control.
func newFrontRunner(program, ifindex int, mac net.HardwareAddr) *runner {
	r := newRunner(program, ifindex, mac)
	r.front, r.xdp.ifindex = true, uint32(ifindex)
	return r
}

// run gives the action and the packet as the program left it, with its Ethernet
// header, until the next call. It is an error of the kernel's to refuse a packet
// that is too short for it.
func (r *runner) run(p reference.Packet, segments int) (action uint32, frame []byte, err error) {
	if p.Bytes[0]>>4 == 4 {
		binary.BigEndian.PutUint16(r.in[12:], 0x0800)
	} else {
		binary.BigEndian.PutUint16(r.in[12:], 0x86dd)
	}
	size := sizeEthernet + copy(r.in[sizeEthernet:], p.Bytes)
	r.context.gsoSize, r.context.gsoSegs = uint32(p.Offload.GSOSize), uint32(segments)
	a := &r.attr
	a.program, a.sizeIn, a.sizeOut = uint32(r.program), uint32(size), uint32(len(r.out))
	a.in, a.out = uint64(uintptr(unsafe.Pointer(&r.in))), uint64(uintptr(unsafe.Pointer(&r.out)))
	a.contextIn, a.contextAt = uint32(unsafe.Sizeof(r.context)), uint64(uintptr(unsafe.Pointer(&r.context)))
	if r.front {
		r.xdp.dataEnd = uint32(size)
		a.contextIn, a.contextAt = uint32(unsafe.Sizeof(r.xdp)), uint64(uintptr(unsafe.Pointer(&r.xdp)))
	}
	a.repeat = 1
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	runtime.KeepAlive(r)
	if errno != 0 {
		return 0, nil, fmt.Errorf("run the program on %d bytes: %w", size, syscall.Errno(errno))
	}
	return a.result, r.out[:a.sizeOut], nil
}

// frame is the packet that run was given last.
func (r *runner) frame() []byte { return r.in[:r.attr.sizeIn] }
