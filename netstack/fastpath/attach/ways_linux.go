package attach

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// noDevice is an index that no interface has.
const noDevice = 0x7fffffff

// wayFinding is what the programs must know of the host's ways. Without a device
// they go on as long as the host gave nobody else a way inside prefix and
// mappings: its route to the device went with it.
func (m *Manager) wayFinding(v *view, in inForce) (h fastpath.Host) {
	h.Strict = v.host.strict(v.uplinks)
	h.Inside, h.Steer = v.host.byName[m.config.Inside], m.steering.Load()
	if len(v.uplinks) <= len(h.Uplinks) {
		copy(h.Uplinks[:], v.uplinks)
	}
	copy(h.Fabric[:], v.host.ofFabric())
	for _, i := range v.uplinks {
		if h.Via == 0 && v.host.forwards(i, in.translation.Edge.Enabled()) {
			h.Via = i
		}
	}
	if h.Device = v.host.byName[m.config.Device]; h.Device == 0 || !in.routed {
		h.Device, h.Alone = noDevice, in.alone // as it was when the device and its routes were there
		return h
	}
	h.Alone = in.table != nil && h.Via != 0 && m.alone(h.Device, in)
	return h
}

// alone says that no route leads away what the device's routes cover, and no rule
// of somebody else could.
func (m *Manager) alone(device int, in inForce) bool {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump.Whole(func() ([]netlink.Rule, error) { return m.surveying.RuleList(family) })
		if err != nil || slices.ContainsFunc(rules, foreignRule) {
			return false
		}
		routes, err := dump.Whole(func() ([]netlink.Route, error) {
			return m.surveying.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil || slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.LinkIndex != device && in.leads(&r) }) {
			return false
		}
	}
	return true
}

// elsewhere lists what IPv4 is behind interfaces that are not uplinks: the fast path
// has no packets from there or to it.
func (m *Manager) elsewhere(indexes []int) (list []netip.Prefix) {
	rules, err := dump.Whole(func() ([]netlink.Rule, error) { return m.surveying.RuleList(netlink.FAMILY_V4) })
	if err != nil || slices.ContainsFunc(rules, foreignRule) || len(indexes) == 0 || len(indexes) > len(fastpath.Host{}.Uplinks) {
		return nil
	}
	routes, err := dump.Whole(func() ([]netlink.Route, error) { return m.surveying.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil
	}
	var uplinks []netip.Prefix
	for _, r := range routes {
		p, ok := prefixOf(r.Dst)
		switch {
		case !ok:
		case r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST || slices.Contains(indexes, r.LinkIndex):
			uplinks = append(uplinks, p)
		default:
			list = append(list, p)
		}
	}
	return slices.DeleteFunc(list, func(p netip.Prefix) bool {
		return slices.ContainsFunc(uplinks, func(u netip.Prefix) bool { return p.Bits() <= u.Bits() && p.Overlaps(u) })
	})
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok && bits > 0
}

// foreignRule says that a rule is neither one of the kernel's three nor ours.
func foreignRule(r netlink.Rule) bool {
	return r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_DEFAULT &&
		r.Table != route.HostPoolTable
}

// leads says that a route is to a part of the prefix, of a mapping, of a rule or of what an
// edge has on its fabric for a block, or to all of one. An address that is shared with the
// host leads to both.
func (in *inForce) leads(r *netlink.Route) bool {
	if r.Dst == nil {
		return false
	}
	a, _ := netip.AddrFromSlice(r.Dst.IP)
	a = a.Unmap()
	bits, _ := r.Dst.Mask.Size()
	if a.Is6() {
		inside := func(p netip.Prefix) bool { return p.Contains(a) && bits >= p.Bits() }
		return inside(in.table.Prefix()) ||
			slices.ContainsFunc(in.translation.Edge.Blocks, func(b mapping.Mapping) bool { return inside(b.IPv6) })
	}
	if !a.Is4() || a == in.translation.Host4 {
		return false
	}
	if slices.ContainsFunc(in.translation.Rules.All(), func(r mapt.Rule) bool { return r.IPv4.Contains(a) && bits >= r.IPv4.Bits() }) {
		return true
	}
	e := in.table.Lookup4(mapping.Addr4From(a))
	return e != nil && bits >= e.Mapping().IPv4.Bits()
}

// strict reports whether one of the uplinks takes IPv4 packets only where the host
// would send to their source (rp_filter=1, RFC 3704 2.2).
func (h *host) strict(uplinks []int) bool {
	return slices.ContainsFunc(uplinks, func(i int) bool { return route.StrictSource(h.links[i].name) })
}
