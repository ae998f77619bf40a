package attach

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf/link"

	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/fastpath/survey"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// What an operator has set up must not be bypassed: where a packet would meet a
// filter, a program or a rule behind the fast path, that interface is left to the
// daemon, or all of them. Who requires the fast path is told what it bypasses.

// possible are the places where programs could be.
func (m *Manager) possible() map[place]bool {
	all := map[place]bool{}
	m.insidePlaces(all)
	if m.config.Steer {
		return all
	}
	for _, i := range m.uplinks {
		all[place{i, uplink}] = true
	}
	for _, i := range m.workloadInterfaces() {
		all[place{i, workload}] = true
	}
	return all
}

// workloadInterfaces are where IPv6 of workloads and of CEs comes in.
func (m *Manager) workloadInterfaces() (all []int) {
	for i, n := range m.count {
		switch {
		case n <= 0:
		case i == fastpath.Fabric:
			all = append(all, m.host.ofFabric()...)
		default:
			all = append(all, i)
		}
	}
	if len(m.translation.Rules.All()) > 0 {
		all = append(all, m.ces...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// leave says why a place is left to the daemon, or "".
func (m *Manager) leave(p place) string {
	if m.config.Required || p.role.inside() {
		return ""
	}
	if m.passed.Host != "" {
		return m.passed.Host
	}
	return m.passed.Interfaces[p.ifindex]
}

// last says that no program follows ours: one that does is to come first.
func (m *Manager) last(p place) bool {
	list, err := m.kernel.at(p.ifindex)
	if err != nil {
		return true
	}
	at := slices.IndexFunc(list, func(s stands) bool { return s.owner == ours && s.place == p })
	return at < 0 || !slices.ContainsFunc(list[at:], func(s stands) bool { return s.owner != ours })
}

// scene is where the programs are, or could be, as of one moment.
type scene struct {
	ours        survey.Ours // but for what takes long
	table       *mapping.Table
	translation translator.Config
	uplinks     []int
	device      int
	workloads   []string       // the interfaces where IPv6 of workloads comes in
	places      map[place]bool // that could be
	fronts      map[int]string // that are named for XDP
}

// scene is that of now; the caller holds mu.
func (m *Manager) scene() scene {
	s := scene{table: m.table, translation: m.translation, uplinks: m.uplinks, device: m.host.byName[m.config.Device], places: m.possible(), fronts: m.namedFronts()}
	s.ours.Device = m.config.Device
	for _, i := range m.uplinks {
		s.ours.Uplinks = append(s.ours.Uplinks, m.host.links[i].name)
	}
	for _, i := range m.workloadInterfaces() {
		s.workloads = append(s.workloads, m.host.links[i].name)
	}
	s.ours.Workloads = slices.Clone(s.workloads)
	for _, i := range m.ports {
		s.ours.Workloads = append(s.ours.Workloads, m.host.links[i].name)
	}
	slices.Sort(s.ours.Workloads)
	s.ours.Workloads = slices.Compact(s.ours.Workloads)
	return s
}

// surveyed is what packets would bypass now.
func (m *Manager) surveyed(s scene) survey.Passed {
	p, err := m.survey.Look(m.ours(s))
	if err != nil && p.Host == "" {
		p.Host = "what cannot be read: " + err.Error()
	}
	if s.device != 0 && p.Host == "" {
		if list, _ := m.kernel.at(s.device); len(list) > 0 {
			p.Host = fmt.Sprintf("program %d at %s", list[0].program, m.config.Device)
		}
	}
	for place := range s.places {
		list, _ := m.kernel.at(place.ifindex)
		for _, s := range list {
			if s.owner == unseen && p.Interfaces[place.ifindex] == "" && !m.pinned(s) {
				p.Interfaces[place.ifindex] = fmt.Sprintf("program %d, which may not be looked at without CAP_SYS_ADMIN and may be "+
					"one that an earlier run left (natlessd --cleanup, as root)", s.program)
			}
		}
	}
	return p
}

// unasked are the interfaces of workloads that forward no IPv6 by their own setting. The
// kernel forwards what comes in there by the setting of the host, but to a program it says
// that it does not: what they send takes the way through the daemon.
func unasked(workloads []string) []string {
	return slices.DeleteFunc(slices.Clone(workloads), func(name string) bool { return forwards("ipv6", name) })
}

// pinned says that a program is at a link that an earlier run pinned where this
// one looks for it.
func (m *Manager) pinned(s stands) bool {
	for r := range numRoles {
		l, err := link.LoadPinnedLink(m.store.path(linkPrefix+place{s.place.ifindex, r}.String()), nil)
		if err != nil {
			continue
		}
		info, err := l.Info()
		l.Close()
		if err == nil && info.ID == s.link {
			return true
		}
	}
	return false
}

// passedBy reports whether that has changed.
func (m *Manager) passedBy() bool {
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	s, before, attached, able := m.scene(), m.passed, maps.Clone(m.attached), m.able
	m.mu.Unlock()
	now := m.surveyed(s)
	if !maps.Equal(m.abilities(s), able) || now.Host != before.Host || !maps.Equal(now.Interfaces, before.Interfaces) {
		return true
	}
	for p := range attached {
		if !m.last(p) {
			return true
		}
	}
	return false
}

// ours is which packets are translated. A great many addresses are covered by
// fewer and larger prefixes.
func (m *Manager) ours(s scene) survey.Ours {
	o := s.ours
	if s.table == nil {
		return o
	}
	o.Prefix, o.Elsewhere = s.table.Prefix(), m.elsewhere(s.uplinks)
	o.Relays = s.translation.Edge.Prefix
	for _, b := range s.translation.Edge.Blocks {
		o.Blocks = append(o.Blocks, b.IPv6)
	}
	o.GlobalOnly = o.Prefix == fastpath.WellKnown && !s.translation.AllowNonGlobal
	if m.covered.table != s.table {
		var six, four covering
		for e := range s.table.Entries() {
			if six.any && four.any {
				break
			}
			mp := e.Mapping()
			six.add(mp.IPv6, 64, 32)
			four.add(mp.IPv4, 32, 16)
		}
		m.covered = covered{s.table, six.list(), four.list()}
	}
	o.Mapped6, o.Mapped4 = m.covered.six, m.covered.four
	return o
}

// covered is what a table's mappings cover.
type covered struct {
	table     *mapping.Table
	six, four []netip.Prefix
}

// covering is a set of prefixes that is kept small: when they are too many, they
// are made shorter, and then as good as everything.
type covering struct {
	set    map[netip.Prefix]bool
	coarse bool
	any    bool
}

const mostCovering = 256

func (c *covering) add(p netip.Prefix, fine, coarse int) {
	if c.any {
		return
	}
	bits := fine
	if c.coarse {
		bits = coarse
	}
	if c.set == nil {
		c.set = map[netip.Prefix]bool{}
	}
	q, _ := p.Addr().Prefix(min(bits, p.Bits()))
	c.set[q] = true
	if len(c.set) <= mostCovering {
		return
	}
	if c.any = c.coarse; c.any {
		return
	}
	c.coarse = true
	old := c.set
	c.set = nil
	for q := range old {
		c.add(q, fine, coarse)
	}
}

// list is nil for everything; of nothing it is empty, and not nil.
func (c *covering) list() []netip.Prefix {
	if c.any {
		return nil
	}
	list := slices.AppendSeq([]netip.Prefix{}, maps.Keys(c.set))
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}
