//go:build linux

// Package nexthops says by which interface the host sends packets to an IPv6
// prefix, as of one moment. What stands at interfaces may not enter here.
package nexthops

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// Hop is where a route leads. An Interface of 0 is nowhere, or to Several.
type Hop struct {
	Interface, Metric int
	Gateway           bool
	Several           []int // interfaces, of which there are more than one way
}

// Ways are the interfaces that the route leads to.
func (h Hop) Ways() []int {
	if h.Interface != 0 {
		return []int{h.Interface}
	}
	return h.Several
}

// Table is the host's routes. It is read once; only Ask asks the kernel again.
type Table struct {
	Best    map[netip.Prefix]Hop // of the main table; the best of each prefix
	lengths []int                // of these prefixes, longest first
	ruled   bool                 // somebody has rules: the main table is not all
	handle  *netlink.Handle
}

// Of makes a table of routes that are known.
func Of(best map[netip.Prefix]Hop) *Table {
	t := &Table{Best: best}
	for p := range best {
		if !slices.Contains(t.lengths, p.Bits()) {
			t.lengths = append(t.lengths, p.Bits())
		}
	}
	slices.SortFunc(t.lengths, func(a, b int) int { return cmp.Compare(b, a) })
	return t
}

// Read asks the kernel for routes and rules.
func Read(handle *netlink.Handle) (*Table, error) {
	routes, err := dump.Whole(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("IPv6 routes: %w", err)
	}
	rules, err := dump.Whole(func() ([]netlink.Rule, error) { return handle.RuleList(netlink.FAMILY_V6) })
	if err != nil {
		return nil, fmt.Errorf("IPv6 rules: %w", err)
	}
	best := map[netip.Prefix]Hop{}
	for _, r := range routes {
		add(best, &r)
	}
	t := Of(best)
	t.handle = handle
	t.ruled = slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN
	})
	return t, nil
}

// To is where the host sends packets for all of a prefix, as far as one route
// covers it.
func (t *Table) To(p netip.Prefix) Hop {
	if t.ruled {
		return t.Ask(p.Addr())
	}
	for _, length := range t.lengths {
		if length > p.Bits() {
			continue
		}
		covering, _ := p.Addr().Prefix(length)
		if to, ok := t.Best[covering]; ok {
			return to
		}
	}
	return Hop{}
}

// Within are the interfaces that packets for parts of a prefix leave by, or for all of it.
func (t *Table) Within(p netip.Prefix) (all []int) {
	all = t.To(p).Ways()
	for inner, to := range t.Best {
		if inner.Bits() > p.Bits() && p.Contains(inner.Addr()) {
			all = append(slices.Clip(all), to.Ways()...)
		}
	}
	return all
}

// Several are the interfaces of routes that have more than one.
func (t *Table) Several() (all []int) {
	for p, to := range t.Best {
		if a := p.Addr(); !a.IsLinkLocalUnicast() && !a.IsMulticast() { // every link has those
			all = append(all, to.Several...)
		}
	}
	return all
}

// Ask asks the kernel where it sends packets for one address now.
func (t *Table) Ask(a netip.Addr) Hop { return Ask(t.handle, a) }

// Ask asks the kernel where it sends packets for one address now.
func Ask(handle *netlink.Handle, a netip.Addr) Hop {
	routes, err := handle.RouteGet(a.AsSlice())
	if err != nil || len(routes) != 1 {
		return Hop{}
	}
	return hopOf(&routes[0])
}

func hopOf(r *netlink.Route) Hop {
	if r.Type != unix.RTN_UNICAST {
		return Hop{Metric: r.Priority}
	}
	if len(r.MultiPath) > 0 {
		several := Hop{Metric: r.Priority}
		for _, n := range r.MultiPath {
			several.Several = append(several.Several, n.LinkIndex)
		}
		return several
	}
	return Hop{Interface: r.LinkIndex, Metric: r.Priority, Gateway: r.Gw != nil || r.Via != nil}
}

func add(best map[netip.Prefix]Hop, r *netlink.Route) {
	to := hopOf(r)
	dst := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if r.Dst != nil {
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok || !a.Is6() {
			return
		}
		dst = netip.PrefixFrom(a, bits)
	}
	if old, ok := best[dst]; !ok || to.Metric < old.Metric {
		best[dst] = to
	} else if to.Metric == old.Metric && to.Interface != old.Interface {
		best[dst] = Hop{Metric: to.Metric, Several: append(old.Ways(), to.Ways()...)}
	}
}
