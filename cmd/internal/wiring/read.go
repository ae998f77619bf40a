//go:build linux

package wiring

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/translator/ports"
)

// present are the objects of ours that there are at an interface. They are known by
// themselves, so that nobody need remember what was made: routes and rules by their
// number, the address by the route that sends from it.
func present(iface string) (map[string]object, error) {
	found := map[string]object{}
	note := func(o object) { found[o.String()] = o }
	routes, err := routesOf(unix.AF_INET)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Protocol != own || r.Via == nil || r.Type != unix.RTN_UNICAST {
			continue
		}
		via, ok := netip.AddrFromSlice(r.Via.(*netlink.Via).Addr)
		src, sends := netip.AddrFromSlice(r.Src.To4())
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if !ok || !sends || err != nil || l.Attrs().Name != iface {
			continue
		}
		note(route{iface: iface, via: via, src: src, table: r.Table})
		if a := (address{iface, src}); true {
			if has, err := a.there(); err != nil {
				return nil, err
			} else if has {
				note(a)
			}
		}
	}
	if err := presentRules(note); err != nil {
		return nil, err
	}
	closing, err := routesOf(unix.AF_INET6)
	if err != nil {
		return nil, err
	}
	for _, r := range closing {
		if r.Protocol == own && r.Type == unix.RTN_UNREACHABLE && r.Dst != nil {
			if p, ok := prefixOf(r); ok {
				note(unreachable{p})
			}
		}
	}
	return found, nil
}

// presentRules notes the rules of ours, and that the kernel's is not there.
func presentRules(note func(object)) error {
	rules, err := dump.Whole(func() ([]netlink.Rule, error) { return netlink.RuleList(unix.AF_INET) })
	if err != nil {
		return err
	}
	first := false
	for _, r := range rules {
		if r.Priority == 0 && r.Table == localTable && r.Dst == nil && r.Src == nil && r.IifName == "" {
			first = true
		}
		if r.Protocol != own {
			continue
		}
		o := rule{pref: r.Priority, iif: r.IifName, proto: r.IPProto, table: r.Table}
		if r.Dst != nil {
			o.to, _ = netip.AddrFromSlice(r.Dst.IP.To4())
		}
		if r.Dport != nil {
			o.ports = ports.Range{First: r.Dport.Start, Last: r.Dport.End}
		}
		note(o)
	}
	if !first {
		note(noKernelRule{})
	}
	return nil
}

func routesOf(family int) ([]netlink.Route, error) {
	return dump.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
}

func prefixOf(r netlink.Route) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(a, bits), ok
}

// foreign says what IPv4 of others there is: two cannot be the container's way out.
func foreign(iface string, own4 netip.Addr, ours map[string]object) error {
	all, err := addresses(iface)
	if err != nil {
		return err
	}
	for _, p := range all {
		mine := p == netip.PrefixFrom(own4, 32) || p.Bits() == 32 && ours[address{iface, p.Addr()}.String()] != nil
		if !mine && p.Addr().IsGlobalUnicast() {
			return &ForeignError{fmt.Sprintf("%s has the IPv4 address %v already", iface, p)}
		}
	}
	routes, err := routesOf(unix.AF_INET)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Table == mainTable && r.Protocol != own && isDefault(r) && r.Type == unix.RTN_UNICAST {
			return &ForeignError{fmt.Sprintf("the container has an IPv4 default route already (%v)", r)}
		}
	}
	return nil
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	bits, _ := r.Dst.Mask.Size()
	return bits == 0
}

// NextHop is the gateway of the best IPv6 default route by an interface; invalid:
// there is none.
func NextHop(iface string) (netip.Addr, error) {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return netip.Addr{}, err
	}
	routes, err := routesOf(unix.AF_INET6)
	if err != nil {
		return netip.Addr{}, err
	}
	var best netip.Addr
	metric := -1
	for _, r := range routes {
		if r.Table != mainTable || !isDefault(r) || r.Type != unix.RTN_UNICAST || metric >= 0 && r.Priority >= metric {
			continue
		}
		via, on := r.Gw, r.LinkIndex
		for _, hop := range r.MultiPath {
			if hop.LinkIndex == l.Attrs().Index {
				via, on = hop.Gw, hop.LinkIndex
				break
			}
		}
		if a, ok := netip.AddrFromSlice(via); ok && a.Is6() && on == l.Attrs().Index {
			best, metric = a, r.Priority
		}
	}
	return best, nil
}
