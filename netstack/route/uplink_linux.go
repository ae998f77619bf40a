package route

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readUplink reads what only the uplink is asked for.
func (k *linuxKernel) readUplink(l netlink.Link, o *observed) error {
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return k.handle.AddrList(l, unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		if p := fromIPNet(a.IPNet); a.Scope == unix.RT_SCOPE_UNIVERSE && !p.IsSingleIP() {
			o.onLink6 = append(o.onLink6, p.Masked())
		}
	}
	return nil
}
