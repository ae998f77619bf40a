package tun

import (
	"slices"

	"golang.org/x/sys/unix"
)

// inherit gives the descriptors in Config.Adopt, which had the device
// open all the time: its routes, and packets that wait in its queues, are still
// there. It gives none, and closes them, when they are not what the
// configuration asks for; then a new device is made.
func (d *Device) inherit(c Config, flags uint16) ([]int, error) {
	if len(c.Adopt) == 0 {
		return nil, nil
	}
	unfit := func(fd int) bool { return !isQueue(fd, c.Name, flags) }
	if len(c.Adopt) != c.files() || slices.ContainsFunc(c.Adopt, unfit) {
		closeAll(c.Adopt)
		if c.Disown != nil {
			c.Disown()
		}
		return nil, nil
	}
	for _, fd := range c.Adopt {
		unix.CloseOnExec(fd)
		// The predecessor's io_uring may have made it blocking.
		if err := unix.SetNonblock(fd, true); err != nil {
			return c.Adopt, err
		}
	}
	d.inherited = true
	return c.Adopt, nil
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

// Descriptors are those of the queues, in the order in which Config.Adopt wants them.
// They stay the device's: who wants the device to outlive it keeps duplicates.
func (d *Device) Descriptors() (fds []int) {
	for _, q := range d.queues {
		fds = append(fds, q.files()[0])
	}
	for _, q := range d.queues {
		fds = append(fds, q.files()[1:]...)
	}
	return fds
}

// Inherited says that the descriptors were those of Config.Adopt.
func (d *Device) Inherited() bool { return d.inherited }
