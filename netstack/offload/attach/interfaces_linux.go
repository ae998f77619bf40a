package attach

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/mapping"
)

// host is what the kernel says of its interfaces and routes, at one moment.
type host struct {
	links   map[int]linkInfo
	byName  map[string]int
	routes  map[netip.Prefix]hop // IPv6, of the main table; the best of each prefix
	lengths []int                // of these prefixes, longest first
	rules   bool                 // somebody has rules for IPv6: the main table is not all
	handle  *netlink.Handle
}

type linkInfo struct {
	name             string
	ethernet, bridge bool
	master           int
}

// hop is an interface and how preferred the route to it is; an index of 0 is
// none, or several.
type hop struct{ ifindex, metric int }

// readHost asks the kernel for everything.
func readHost(handle *netlink.Handle) (*host, error) {
	h := &host{links: map[int]linkInfo{}, byName: map[string]int{}, routes: map[netip.Prefix]hop{}, handle: handle}
	links, err := dump(handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		h.addLink(l)
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("IPv6 routes: %w", err)
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
		return nil, fmt.Errorf("IPv6 rules: %w", err)
	}
	for _, r := range rules {
		h.rules = h.rules || r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN
	}
	return h, nil
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
	h.links[a.Index] = linkInfo{a.Name, a.EncapType == "ether" && l.Type() != "tuntap", l.Type() == "bridge", a.MasterIndex}
	h.byName[a.Name] = a.Index
}

func (h *host) addRoute(r *netlink.Route) {
	to := hop{r.LinkIndex, r.Priority}
	if len(r.MultiPath) > 0 || r.Type != unix.RTN_UNICAST {
		to.ifindex = 0
	}
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
		h.routes[dst] = hop{0, to.metric}
	}
}

// interfaceOf is where packets of a mapping's workload come in: at the interface
// that it was said to have, or else, as when that is gone since a reboot, where
// the host's route to it leads. A prefix has one only where one route covers all of it. Those whose links a
// bridge joins are at the bridge: as for the daemon, which goes by routes, one of
// them that uses another's address is not told from it.
func (h *host) interfaceOf(m mapping.Mapping, hint string) int {
	ifindex := h.byName[hint]
	switch {
	case ifindex != 0:
	case h.rules:
		ifindex = h.ask(m.IPv6.Addr())
	default:
		for _, length := range h.lengths {
			if length > m.IPv6.Bits() {
				continue
			}
			p, _ := m.IPv6.Addr().Prefix(length)
			if to, ok := h.routes[p]; ok {
				ifindex = to.ifindex
				break
			}
		}
	}
	// At a port of a bridge, packets are for the bridge and not for the port.
	if master := h.links[ifindex].master; h.links[master].bridge {
		ifindex = master
	}
	if !h.links[ifindex].ethernet {
		return 0
	}
	return ifindex
}

// ask asks the kernel for one route.
func (h *host) ask(a netip.Addr) int {
	routes, err := h.handle.RouteGet(a.AsSlice())
	if err != nil || len(routes) != 1 || routes[0].Type != unix.RTN_UNICAST {
		return 0
	}
	return routes[0].LinkIndex
}

// uplinks are the interfaces where IPv4 packets for workloads come in: the one
// of the configuration, or else those of default routes, or else all with an
// IPv4 address.
func (h *host) uplinks(configured, device string) (indexes []int, err error) {
	if configured != "" {
		if i := h.byName[configured]; h.links[i].ethernet {
			indexes = append(indexes, i)
		}
		return indexes, nil
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return h.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: nil}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return nil, fmt.Errorf("IPv4 routes: %w", err)
	}
	for _, r := range routes {
		indexes = append(indexes, r.LinkIndex)
		for _, n := range r.MultiPath {
			indexes = append(indexes, n.LinkIndex)
		}
	}
	if len(indexes) == 0 {
		addrs, err := dump(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, netlink.FAMILY_V4) })
		if err != nil {
			return nil, fmt.Errorf("IPv4 addresses: %w", err)
		}
		for _, a := range addrs {
			indexes = append(indexes, a.LinkIndex)
		}
	}
	slices.Sort(indexes)
	indexes = slices.Compact(indexes)
	return slices.DeleteFunc(indexes, func(i int) bool { return !h.links[i].ethernet || h.links[i].name == device }), nil
}

// forwards says whether the kernel forwards both families of what comes in at
// the interface, which its answer to where a packet goes depends on.
func (h *host) forwards(ifindex int) bool {
	for _, family := range []string{"ipv4", "ipv6"} {
		b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + h.links[ifindex].name + "/forwarding")
		if err != nil || len(b) == 0 || b[0] == '0' {
			return false
		}
	}
	return true
}
