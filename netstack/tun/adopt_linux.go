package tun

import (
	"slices"

	"golang.org/x/sys/unix"
)

// inherit makes the device of the descriptors in Config.Adopt, which had it
// open all the time: its routes, and packets that wait in its queues, are still
// there. It says false, and closes them, when they are not what the
// configuration asks for; then a new device is made.
func (d *Device) inherit(c Config, n int, flags uint16) (bool, error) {
	if len(c.Adopt) == 0 {
		return false, nil
	}
	unfit := func(fd int) bool { return !isQueue(fd, c.Name, flags) }
	if len(c.Adopt) != n || slices.ContainsFunc(c.Adopt, unfit) {
		for _, fd := range c.Adopt {
			unix.Close(fd)
		}
		return false, nil
	}
	for i, fd := range c.Adopt {
		unix.CloseOnExec(fd)
		// The predecessor's io_uring may have made it blocking.
		err := unix.SetNonblock(fd, true)
		if err == nil {
			err = d.addQueue(fd, c.IO)
		} else {
			unix.Close(fd)
		}
		if err != nil {
			for _, rest := range c.Adopt[i+1:] {
				unix.Close(rest)
			}
			return false, err
		}
	}
	d.inherited = true
	return true, nil
}

// isQueue reports whether a descriptor is a queue of the device of that name as we
// would make it. It is not when the device was deleted meanwhile.
func isQueue(fd int, name string, flags uint16) bool {
	request, err := unix.NewIfreq(name)
	if err != nil || unix.IoctlIfreq(fd, unix.TUNGETIFF, request) != nil || request.Name() != name {
		return false
	}
	const kind = unix.IFF_TUN | unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE
	size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
	return err == nil && size == headerLen && request.Uint16()&kind == flags&kind
}

// Descriptors are those of the queues. They stay the device's: who wants the
// device to outlive it keeps duplicates.
func (d *Device) Descriptors() []int {
	fds := make([]int, len(d.queues))
	for i, q := range d.queues {
		fds[i] = q.descriptor()
	}
	return fds
}

// Inherited says that the descriptors were those of Config.Adopt.
func (d *Device) Inherited() bool { return d.inherited }
