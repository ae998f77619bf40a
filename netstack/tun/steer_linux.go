package tun

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:generate go tool -modfile=../../tests/tools/go.mod bpf2go -cc clang-14 -strip llvm-strip-14 -cflags "-mcpu=v3 -Wall -Wextra -Werror" -target bpfel,bpfeb -type place steer bpf/steer.c

// steering is a program in the kernel that chooses the queue of a packet by the
// CPU that it comes on, in place of a hash of its flow: bulk by (CPU + shift) modulo the
// number of its queues. So the queue's thread can be on the CPU where the packet
// is in the cache and nobody has to be woken from afar, or on another one, where
// it works beside those who send. Flows that send little go to the other half of the
// queues, if there is one, by the CPU alone.
type steering struct {
	objects steerObjects
	place   steerPlace
}

// newSteering makes the program.
func newSteering(c Config) (*steering, error) {
	s := &steering{place: steerPlace{Queues: uint32(c.count()), Seed: rand.Uint32()}}
	if c.TAP {
		s.place.Link = LinkLen
	}
	if c.Sparse {
		s.place.Sparse = 1
	}
	if err := loadSteerObjects(&s.objects, nil); err != nil {
		return nil, fmt.Errorf("steering: %w", err)
	}
	if err := s.steer(0); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// attach gives the program to the device that fd is a queue of.
func (s *steering) attach(fd int) error {
	program := int32(s.objects.Steer.FD())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETSTEERINGEBPF, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(s)
	if errno != 0 {
		return fmt.Errorf("steering: attach: %w (Linux 4.16)", errno)
	}
	return nil
}

func (s *steering) steer(shift int) error {
	place := s.place
	place.Shift = uint32(shift)
	return s.objects.Places.Put(uint32(0), &place)
}

func (s *steering) close() error { return s.objects.Close() }

// Steers reports whether packets come to queues by CPU: without the right to load
// BPF programs, or with one queue, the kernel goes by their flows.
func (d *Device) Steers() bool { return d.steering != nil }

// Steer has bulk that comes on CPU n go to queue n + shift, modulo the number of
// queues for it. It is for any goroutine, and does nothing where Steers is
// false.
func (d *Device) Steer(shift int) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed || d.steering == nil {
		return nil
	}
	if err := d.steering.steer(shift); err != nil {
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
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.queues[0].files()[0]), unix.TUNSETFILTEREBPF, uintptr(unsafe.Pointer(&fd)))
	if errno != 0 {
		return fmt.Errorf("device %s: program in front of the queues: %w (Linux 4.16)", d.name, errno)
	}
	return nil
}
