package tun

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Pending reports whether packets wait in the kernel for a queue. Any goroutine
// may ask.
func (d *Device) Pending(queue int) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return false
	}
	var poll []unix.PollFd
	for _, fd := range d.queues[queue].files() {
		poll = append(poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && slices.ContainsFunc(poll, func(p unix.PollFd) bool { return p.Revents&unix.POLLIN != 0 })
}
