package tun

import "golang.org/x/sys/unix"

// Pending reports whether packets wait in a queue of the kernel's. Any goroutine
// may ask.
func (d *Device) Pending(queue int) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return false
	}
	poll := []unix.PollFd{{Fd: int32(d.queues[queue].descriptor()), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1 && poll[0].Revents&unix.POLLIN != 0
}
