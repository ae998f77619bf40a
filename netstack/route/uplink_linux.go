package route

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readUplink reads what only the uplink is asked for.
func (k *linuxKernel) readUplink(l netlink.Link, o *observed) error {
	attrs := l.Attrs()
	o.link.index = attrs.Index
	const running = unix.IFF_UP | unix.IFF_RUNNING
	if len(attrs.HardwareAddr) == len(o.link.mac) && attrs.EncapType == "ether" {
		o.link.up = attrs.RawFlags&running == running && attrs.RawFlags&unix.IFF_NOARP == 0
		o.link.mac = [6]byte(attrs.HardwareAddr)
	}
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return k.handle.AddrList(l, unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		// RFC 4861 4.4: any address of the interface. A link-local one goes first.
		if local := a.IP.IsLinkLocalUnicast(); a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 && (local || !o.link.source6.IsValid()) {
			o.link.source6 = fromIPNet(a.IPNet).Addr()
		}
		if p := fromIPNet(a.IPNet); a.Scope == unix.RT_SCOPE_UNIVERSE && !p.IsSingleIP() {
			o.onLink6 = append(o.onLink6, p.Masked())
		}
	}
	return nil
}
