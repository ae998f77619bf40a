package cli

import (
	"net/netip"
	"strconv"
	"strings"
)

// ParseTarget reads an address, and a port where there is one, else -1. Port 0 is nobody's
// but as the identifier of a ping.
func ParseTarget(s string) (a netip.Addr, port int, err error) {
	if p, err := netip.ParseAddrPort(s); err == nil && p.Addr().Zone() == "" {
		return p.Addr().Unmap(), int(p.Port()), nil
	}
	if a, err = netip.ParseAddr(strings.Trim(s, "[]")); err == nil && a.Zone() == "" {
		return a.Unmap(), -1, nil
	}
	if head, tail, ok := strings.Cut(s, ":"); ok {
		_, err := netip.ParseAddr(head)
		if _, number := strconv.ParseUint(tail, 10, 64); err == nil && number == nil {
			return a, 0, Misuse("%q: there is no port %s: ports end at 65535", s, tail)
		}
	}
	return a, 0, Misuse("%q is not an address, with or without a port, such as 198.51.100.7:4321, 198.51.100.7 or 2001:db8:6::2", s)
}
