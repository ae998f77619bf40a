package route

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readUplink notes what only the uplink is asked for.
func readUplink(attrs *netlink.LinkAttrs, addrs6 []netlink.Addr, o *observed) {
	l := &o.link
	l.index = attrs.Index
	const running = unix.IFF_UP | unix.IFF_RUNNING
	if len(attrs.HardwareAddr) == len(l.mac) && attrs.EncapType == "ether" {
		l.up = attrs.RawFlags&running == running && attrs.RawFlags&unix.IFF_NOARP == 0
		l.mac = [6]byte(attrs.HardwareAddr)
	}
	for _, a := range addrs6 {
		if a.LinkIndex != attrs.Index {
			continue
		}
		p := fromIPNet(a.IPNet)
		if a.Scope == unix.RT_SCOPE_UNIVERSE && !p.IsSingleIP() {
			o.onLink6 = append(o.onLink6, p.Masked())
		}
		// RFC 4861 4.4: any address of the interface. A link-local one goes first.
		usable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
		if usable && (a.IP.IsLinkLocalUnicast() || !l.source6.IsValid()) {
			l.source6 = p.Addr()
		}
	}
}
