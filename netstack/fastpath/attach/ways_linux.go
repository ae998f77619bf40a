package attach

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/internal/routes"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// noDevice is an index that no interface has.
const noDevice = 0x7fffffff

// wayFinding is what the programs must know of the host's ways. Without a device
// they go on as long as the host gave nobody else a way inside prefix and
// mappings: its route to the device went with it. For many see alone.
func (m *Manager) wayFinding(v *view, in inForce) (h fastpath.Host, many bool) {
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
		return h, false
	}
	if in.table != nil && h.Via != 0 {
		h.Alone, many = m.alone(h.Device, in)
	}
	return h, many
}

// alone says that no route leads away what the device's routes cover, and no rule
// of somebody else could. many says that the host has far more routes than can part
// destinations.
func (m *Manager) alone(device int, in inForce) (alone, many bool) {
	alone = true
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if m.ruled(family) {
			return false, many
		}
		away, n := false, 0
		err := m.routes.Each(uint8(family), func() { away, n = false, 0 }, func(r *routes.Route) bool {
			n++
			links := r.Links()
			away = away || (len(links) != 1 || links[0] != device) && in.leads(r.Destination)
			return true
		})
		alone, many = alone && err == nil && !away, many || n > 4*fastpath.MaxParts
	}
	return alone, many
}

// ruled says that a rule of somebody else may lead packets elsewhere.
func (m *Manager) ruled(family int) bool {
	rules, err := dump.Whole(func() ([]netlink.Rule, error) { return m.surveying.RuleList(family) })
	return err != nil || slices.ContainsFunc(rules, foreignRule)
}

// away is what IPv4 is behind interfaces that are not uplinks, as it was when the kernel had
// told of so many changes.
type away struct {
	told    uint64
	uplinks []int
	list    []netip.Prefix
}

// elsewhere is what is away now: the fast path has no packets from there or to it.
func (m *Manager) elsewhere(uplinks []int) []netip.Prefix {
	told := m.told.Load()
	if m.away == nil || m.away.told != told || !slices.Equal(m.away.uplinks, uplinks) {
		m.away = &away{told, slices.Clone(uplinks), m.listElsewhere(uplinks)}
	}
	return m.away.list
}

func (m *Manager) listElsewhere(indexes []int) (list []netip.Prefix) {
	if len(indexes) == 0 || len(indexes) > len(fastpath.Host{}.Uplinks) || m.ruled(netlink.FAMILY_V4) {
		return nil
	}
	var behind, uplinks []netip.Prefix
	err := m.routes.Each(unix.AF_INET, func() { behind, uplinks = nil, nil }, func(r *routes.Route) bool {
		links := r.Links()
		switch {
		case r.Table != unix.RT_TABLE_MAIN || r.Destination.Bits() == 0:
		case len(links) != 1 || !r.Unicast || slices.Contains(indexes, links[0]):
			uplinks = append(uplinks, r.Destination)
		default:
			behind = append(behind, r.Destination)
		}
		return true
	})
	if err != nil {
		return nil
	}
	byAddress := func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }
	slices.SortFunc(uplinks, byAddress)
	return slices.DeleteFunc(behind, func(p netip.Prefix) bool { // of which they have a part
		i, _ := slices.BinarySearchFunc(uplinks, p, byAddress)
		return slices.ContainsFunc(uplinks[i:min(i+33, len(uplinks))], func(u netip.Prefix) bool { return p.Contains(u.Addr()) && p.Bits() <= u.Bits() })
	})
}

// foreignRule says that a rule is neither one of the kernel's three nor ours.
func foreignRule(r netlink.Rule) bool {
	return r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_DEFAULT &&
		r.Table != route.HostPoolTable
}

// leads says that p is a part of the prefix, of a mapping, of a rule or of what an edge has
// on its fabric for a block, or all of one. An address that is shared with the host leads to
// both.
func (in *inForce) leads(p netip.Prefix) bool {
	a := p.Addr()
	if a.Is6() {
		inside := func(o netip.Prefix) bool { return o.Contains(a) && p.Bits() >= o.Bits() }
		return inside(in.table.Prefix()) ||
			slices.ContainsFunc(in.translation.Edge.Blocks, func(b mapping.Mapping) bool { return inside(b.IPv6) })
	}
	if a == in.translation.Host4 {
		return false
	}
	if slices.ContainsFunc(in.translation.Rules.All(), func(r mapt.Rule) bool { return r.IPv4.Contains(a) && p.Bits() >= r.IPv4.Bits() }) {
		return true
	}
	e := in.table.Lookup4(mapping.Addr4From(a))
	return e != nil && p.Bits() >= e.Mapping().IPv4.Bits()
}

// concern is what a look would find something else for, should an IPv4 route change.
type concern struct {
	in      inForce
	uplinks []int
	away    []netip.Prefix
}

// concerns says that a change of a route may be something to look at: all are, but for those
// by uplinks alone to where nothing is that the fast path would do otherwise.
func (m *Manager) concerns(r routes.Route) bool {
	c := m.concern.Load()
	return c == nil || len(r.Links()) == 0 || r.Destination.Bits() == 0 || c.in.leads(r.Destination) ||
		slices.ContainsFunc(r.Links(), func(i int) bool { return !slices.Contains(c.uplinks, i) }) ||
		slices.ContainsFunc(c.away, r.Destination.Overlaps)
}

// concernedWith is what matters after a look, until tables or the host change. Where routes
// can part destinations, all do.
func (m *Manager) concernedWith() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.table != nil && m.many && m.away != nil {
		m.concern.Store(&concern{m.inForce(), slices.Clone(m.uplinks), m.away.list})
	}
}

// strict reports whether one of the uplinks takes IPv4 packets only where the host
// would send to their source (rp_filter=1, RFC 3704 2.2).
func (h *host) strict(uplinks []int) bool {
	return slices.ContainsFunc(uplinks, func(i int) bool { return route.StrictSource(h.links[i].name) })
}
