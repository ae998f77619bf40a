package guard

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is what the kernel says of its interfaces, routes and addresses, at one
// moment.
type host struct {
	links     map[int]link
	byName    map[string]int
	routes    map[netip.Prefix]hop // IPv6, of the main table; the best of each prefix
	lengths   []int                // of these prefixes, longest first
	ruled     bool                 // somebody has rules for IPv6: the main table is not all
	addresses map[int][]netip.Addr // IPv6
	defaults  map[int]bool         // where IPv4's default routes lead
	ask       func(netip.Addr) hop // for one route
}

type link struct {
	name   string
	bridge bool
	master int
}

// hop is where a route leads. An index of 0 is nowhere, or to several.
type hop struct {
	ifindex, metric int
	gateway         bool
}

// survey asks the kernel for everything.
func survey(handle *netlink.Handle) (*host, error) {
	h := &host{links: map[int]link{}, byName: map[string]int{}, routes: map[netip.Prefix]hop{},
		addresses: map[int][]netip.Addr{}, defaults: map[int]bool{}}
	h.ask = func(a netip.Addr) hop {
		routes, err := handle.RouteGet(a.AsSlice())
		if err != nil || len(routes) != 1 {
			return hop{}
		}
		return hopOf(&routes[0])
	}
	links, err := dump(handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		h.addLink(l)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return handle.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return nil, fmt.Errorf("IPv6 addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			h.addresses[a.LinkIndex] = append(h.addresses[a.LinkIndex], ip)
		}
	}
	return h, h.survey(handle)
}

func (h *host) survey(handle *netlink.Handle) error {
	main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	routes, err := dump(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(netlink.FAMILY_V6, main, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("IPv6 routes: %w", err)
	}
	for _, r := range routes {
		h.addRoute(&r)
	}
	for p := range h.routes {
		if !slices.Contains(h.lengths, p.Bits()) {
			h.lengths = append(h.lengths, p.Bits())
		}
	}
	slices.SortFunc(h.lengths, func(a, b int) int { return cmp.Compare(b, a) })
	rules, err := dump(func() ([]netlink.Rule, error) { return handle.RuleList(netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("IPv6 rules: %w", err)
	}
	for _, r := range rules {
		h.ruled = h.ruled || r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN
	}
	defaults, err := dump(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(netlink.FAMILY_V4, main, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return fmt.Errorf("IPv4 routes: %w", err)
	}
	for _, r := range defaults {
		h.defaults[r.LinkIndex] = true
		for _, n := range r.MultiPath {
			h.defaults[n.LinkIndex] = true
		}
	}
	return nil
}

// dump asks again when the kernel changed something meanwhile.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil // as good as it gets; the change is announced, too
}

func (h *host) addLink(l netlink.Link) {
	a := l.Attrs()
	h.links[a.Index] = link{a.Name, l.Type() == "bridge", a.MasterIndex}
	h.byName[a.Name] = a.Index
}

// refresh looks at an interface that may be newer than the survey.
func (h *host) refresh(handle *netlink.Handle, name string) error {
	if name == "" {
		return nil
	}
	l, err := handle.LinkByName(name)
	if e := (netlink.LinkNotFoundError{}); errors.As(err, &e) {
		return nil // routes tell
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	h.addLink(l)
	return nil
}

func hopOf(r *netlink.Route) hop {
	if len(r.MultiPath) > 0 || r.Type != unix.RTN_UNICAST {
		return hop{metric: r.Priority}
	}
	return hop{r.LinkIndex, r.Priority, r.Gw != nil || r.Via != nil}
}

func (h *host) addRoute(r *netlink.Route) {
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
	if old, ok := h.routes[dst]; !ok || to.metric < old.metric {
		h.routes[dst] = to
	} else if to.metric == old.metric && to.ifindex != old.ifindex {
		h.routes[dst] = hop{metric: to.metric}
	}
}

// route is where the host sends packets for all of a prefix, as far as one
// route covers it.
func (h *host) route(p netip.Prefix) hop {
	if h.ruled {
		return h.ask(p.Addr())
	}
	for _, length := range h.lengths {
		if length > p.Bits() {
			continue
		}
		covering, _ := p.Addr().Prefix(length)
		if to, ok := h.routes[covering]; ok {
			return to
		}
	}
	return hop{}
}
