package attach

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/internal/nexthops"
	"github.com/natless/natless/translator/mapt"
)

// host is what the kernel says of its interfaces and routes, at one moment.
type host struct {
	links  map[int]linkInfo
	byName map[string]int
	hops   *nexthops.Table // IPv6
	fabric []string        // of the configuration
	handle *netlink.Handle
}

type linkInfo struct {
	name             string
	ethernet, bridge bool
	master           int
	kind             string // as rtnetlink has it; "device" is none of its own
}

// readHost asks the kernel for everything.
func readHost(handle *netlink.Handle, fabric []string) (*host, error) {
	h := &host{fabric: fabric, links: map[int]linkInfo{}, byName: map[string]int{}, handle: handle}
	links, err := dump.Whole(handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		h.addLink(l)
	}
	if h.hops, err = nexthops.Read(handle); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *host) addLink(l netlink.Link) {
	a := l.Attrs()
	h.links[a.Index] = linkInfo{a.Name, a.EncapType == "ether" && l.Type() != "tuntap", l.Type() == "bridge", a.MasterIndex, l.Type()}
	h.byName[a.Name] = a.Index
}

// interfaceOf is where packets of a mapping's workload, by its IPv6 prefix, come in: at the interface
// that it was said to have, or else, as when that is gone since a reboot, where
// the host's route to it leads. A prefix has one only where one route covers all of it. Those whose links a
// bridge joins are at the bridge: as for the daemon, which goes by routes, one of
// them that uses another's address is not told from it.
func (h *host) interfaceOf(p netip.Prefix, hint string) int {
	ifindex := h.byName[hint]
	if ifindex == 0 {
		to := h.hops.To(p)
		if h.byFabric(to) {
			return fastpath.Fabric
		}
		ifindex = to.Interface
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

// customers are the interfaces that lead to CEs of MAP-T, where what they send comes in: all
// that a part of a rule's IPv6 prefix has a route by, and those of the fabric if one of it is
// among them.
func (h *host) customers(rules *mapt.Rules) (all []int) {
	for _, r := range rules.All() {
		for _, i := range h.hops.Within(r.IPv6) {
			if master := h.links[i].master; h.links[master].bridge {
				i = master
			}
			if slices.Contains(h.fabric, h.links[i].name) {
				all = append(all, h.ofFabric()...)
			}
			if h.links[i].ethernet {
				all = append(all, i)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// byFabric reports whether packets for a workload leave by the fabric, whichever way they
// take. What it sends may then come in by any other.
func (h *host) byFabric(to nexthops.Hop) bool {
	ways := to.Ways()
	return len(ways) > 0 && !slices.ContainsFunc(ways, func(i int) bool { return !slices.Contains(h.fabric, h.links[i].name) })
}

// ofFabric are the interfaces of the fabric that are there.
func (h *host) ofFabric() (indexes []int) {
	for _, name := range h.fabric {
		if i := h.byName[name]; h.links[i].ethernet {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// uplinks are the interfaces where IPv4 packets for workloads come in: those
// of the configuration, or else those of default routes.
func (h *host) uplinks(configured []string, device string) (indexes []int, err error) {
	for _, name := range configured {
		if i := h.byName[name]; h.links[i].ethernet && !slices.Contains(indexes, i) {
			indexes = append(indexes, i)
		}
	}
	if len(configured) > 0 {
		return indexes, nil
	}
	return h.ofDefaults(device)
}

// toRelays are the interfaces of the fabric where this host is its edge: those of the
// configuration, or else those of the ways to relays.
func (h *host) toRelays(configured []string, device string, relays netip.Prefix) (indexes []int) {
	if len(configured) == 0 {
		indexes = h.hops.To(relays).Ways()
	}
	for _, name := range configured {
		indexes = append(indexes, h.byName[name])
	}
	slices.Sort(indexes)
	indexes = slices.Compact(indexes)
	return slices.DeleteFunc(indexes, func(i int) bool { return !h.links[i].ethernet || h.links[i].name == device })
}

// ofDefaults are the interfaces of default routes, or else all with an IPv4 address.
func (h *host) ofDefaults(device string) (indexes []int, err error) {
	routes, err := dump.Whole(func() ([]netlink.Route, error) {
		return h.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: nil},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
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
		addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, netlink.FAMILY_V4) })
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

// forwards reports whether the kernel forwards both families of what comes in at
// the interface, which its answer to where a packet goes depends on; at an edge, IPv6.
func (h *host) forwards(ifindex int, edge bool) bool {
	return (edge || forwards("ipv4", h.links[ifindex].name)) && forwards("ipv6", h.links[ifindex].name)
}

// forwards reports what an interface says of itself.
func forwards(family, name string) bool {
	b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + name + "/forwarding")
	return err == nil && len(b) > 0 && b[0] != '0'
}
