package route

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// SetUpInside brings the TAP of workloads with IPv4 inside up. Frames come and go by
// the kernel's programs alone: it has no addresses, asks nobody and answers nobody.
func SetUpInside(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetARPOff(link) },
		func() error { return netlink.LinkSetIP6AddrGenMode(link, addrGenModeNone) },
		func() error { return netlink.LinkSetTxQLen(link, defaultTxQueueLen) },
		func() error { return netlink.LinkSetUp(link) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("device %s: set it up: %w", name, err)
		}
	}
	return nil
}
