package tun

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// steering is a program in the kernel that chooses the queue of a packet by the
// CPU that it comes on, in place of a hash of its flow: (CPU + shift) modulo the
// number of queues. So the queue's thread can be on the CPU where the packet
// is in the cache and nobody has to be woken from afar, or on another one, where
// it works beside those who send.
type steering struct {
	shift   *ebpf.Map // one entry
	program *ebpf.Program
}

// newSteering makes the program and gives it to the device that fd is a queue of.
func newSteering(fd int) (*steering, error) {
	shift, err := ebpf.NewMap(&ebpf.MapSpec{Name: "natless_shift", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	s := &steering{shift: shift}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "natless_steer", Type: ebpf.SocketFilter, License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.FnGetSmpProcessorId.Call(),
			asm.LoadMapValue(asm.R1, shift.FD(), 0),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
			asm.Add.Reg(asm.R0, asm.R1),
			asm.Return(), // the kernel takes it modulo the number of queues
		},
	})
	if err != nil {
		s.close()
		return nil, fmt.Errorf("program: %w", err)
	}
	program := int32(s.program.FD())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETSTEERINGEBPF, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(s)
	if errno != 0 {
		s.close()
		return nil, fmt.Errorf("attach: %w (Linux 4.16)", errno)
	}
	return s, nil
}

func (s *steering) close() error {
	err := s.shift.Close()
	if s.program != nil {
		err = errors.Join(err, s.program.Close())
	}
	return err
}

// Steers reports whether packets come to queues by CPU: without the right to load
// BPF programs, or with one queue, the kernel goes by their flows.
func (d *Device) Steers() bool { return d.steering != nil }

// Steer has the packets that come on CPU n go to queue n + shift, modulo the
// number of queues. It is for any goroutine, and does nothing where Steers is
// false.
func (d *Device) Steer(shift int) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed || d.steering == nil {
		return nil
	}
	if err := d.steering.shift.Put(uint32(0), uint32(shift)); err != nil {
		return fmt.Errorf("device %s: steer: %w", d.name, err)
	}
	return nil
}

// Police has a program of the kernel (BPF_PROG_TYPE_SOCKET_FILTER) judge packets before
// they come to a queue: those for which it gives 0 are dropped, and counted as such with
// those that found a queue full. -1: no program. It is for any goroutine.
func (d *Device) Police(program int) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil
	}
	fd := int32(program)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.queues[0].descriptor()), unix.TUNSETFILTEREBPF, uintptr(unsafe.Pointer(&fd)))
	if errno != 0 {
		return fmt.Errorf("device %s: program in front of the queues: %w (Linux 4.16)", d.name, errno)
	}
	return nil
}
