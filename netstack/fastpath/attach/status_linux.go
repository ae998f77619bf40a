package attach

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator/mapt"
)

// Snapshot is what the kernel has done since this daemon began, by reason: what
// came in at uplinks (4→6) and at workloads (6→4). It never runs backwards.
type Snapshot = fastpath.Counters

// Snapshot sums up. When the counters cannot be read, they are what they last were.
func (m *Manager) Snapshot() Snapshot {
	m.counting.Lock()
	defer m.counting.Unlock()
	if c, err := m.path.Counters(); err == nil {
		m.seen = c
	}
	s := m.seen
	for r := range fastpath.NumReasons {
		s.Uplink[r] = minus(s.Uplink[r], m.base.Uplink[r])
		s.Workload[r] = minus(s.Workload[r], m.base.Workload[r])
		s.Inside[r] = minus(s.Inside[r], m.base.Inside[r])
		s.Given[r] = minus(s.Given[r], m.base.Given[r])
		s.Delivered[r] = minus(s.Delivered[r], m.base.Delivered[r])
	}
	return s
}

func minus(a, b fastpath.Count) fastpath.Count {
	return fastpath.Count{Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
}

// Policer see fastpath.FastPath.
func (m *Manager) Policer() map[string]*ebpf.Map { return m.path.Policer() }

// Translated is how many packets took the fast path. Nobody waits for it.
func (m *Manager) Translated() uint64 {
	n, _ := m.path.Translated()
	return n
}

// Traffic is what the kernel translated for the mapping with a slot of the
// translator's table (mapping.Entry.Slot).
func (m *Manager) Traffic(slot uint32) (fastpath.Traffic, error) { return m.path.Traffic(slot) }

// RuleTraffic is what the programs have translated by a rule of MAP-T.
func (m *Manager) RuleTraffic(rules *mapt.Rules, index int) (fastpath.Traffic, error) {
	return m.path.RuleTraffic(rules, index)
}

// Status is what is attached where.
type Status struct {
	Attach     string // tcx or clsact
	Adopted    bool   // an earlier daemon's maps are in use
	On         bool   // packets are translated
	Detail     string // what is not used, and why
	Interfaces []Interface
	XDP        XDP
	Inside     int // interfaces of workloads with IPv4 inside that have their program
}

// Interface is where a program is, or should be.
type Interface struct {
	Name      string
	Uplink    bool
	Fabric    bool   // packets of workloads come in by any such interface
	Workloads int    // mappings whose IPv6 packets come in there
	Error     string // why it is not there after all
	Left      string // what packets would bypass, so that it is not there; or what they bypass where it is required
}

// Status says how it stands.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status()
}

func (m *Manager) status() Status {
	s := Status{Attach: m.hook.String(), Adopted: m.adopted}
	var places []place
	for p := range m.attached {
		if p.role == xdp {
			continue
		}
		if !p.role.inside() {
			places = append(places, p)
		} else if p.role == sent4 {
			s.Inside++
		}
	}
	s.On = m.unusable() == nil && len(places) > 0
	places = slices.AppendSeq(places, maps.Keys(m.errs))
	if m.unusable() == nil && m.passed.Host == "" {
		for p := range m.possible() {
			if m.leave(p) != "" && !slices.Contains(places, p) {
				places = append(places, p)
			}
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.role, b.role), cmp.Compare(a.ifindex, b.ifindex))
	})
	for _, p := range places {
		i := Interface{Name: m.host.links[p.ifindex].name, Uplink: p.role == uplink, Error: m.errs[p], Left: m.passed.Interfaces[p.ifindex]}
		if p.role == workload {
			i.Workloads = m.count[p.ifindex]
			if slices.Contains(m.config.Fabric, i.Name) && m.count[fastpath.Fabric] > 0 {
				i.Fabric, i.Workloads = true, i.Workloads+m.count[fastpath.Fabric]
			}
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	s.XDP = m.statusXDP()
	s.Detail = strings.Join(m.lacking(), "; ")
	return s
}

// lacking says what packets take the way through the daemon, and why.
func (m *Manager) lacking() (list []string) {
	if err := m.unusable(); err != nil {
		return []string{err.Error()}
	}
	if m.config.Steer {
		return []string{"fast_path is off: what workloads with IPv4 inside send goes by the daemon"}
	}
	if !m.forwards {
		list = append(list, fmt.Sprintf("%s does not forward both IPv4 and IPv6 (net.ipv4.conf.*.forwarding, "+
			"net.ipv6.conf.*.forwarding, disable_ipv6): nothing is translated", m.config.Device))
	}
	if len(m.uplinks) == 0 {
		what := "no interface with IPv4"
		if len(m.config.Uplinks) > 0 {
			what = "no Ethernet interface " + strings.Join(m.config.Uplinks, " or ")
		}
		list = append(list, what+": nothing is translated to IPv6")
	}
	for _, name := range slices.Concat(m.config.Uplinks, m.config.Fabric) {
		if i := m.host.byName[name]; len(m.uplinks) > 0 && !m.host.links[i].ethernet {
			list = append(list, "no Ethernet interface "+name)
		}
	}
	for _, name := range m.unasked {
		list = append(list, fmt.Sprintf("%s does not forward IPv6 (net.ipv6.conf.%s.forwarding): nothing from there is translated to IPv4", name, name))
	}
	if m.nowhere > 0 {
		list = append(list, fmt.Sprintf("%d mappings have no Ethernet interface of their own", m.nowhere))
		if several := m.host.hops.Several(); len(several) > 0 {
			list = append(list, "routes to workloads lead by several interfaces ("+m.namesOf(several)+"): name them in the key fabric")
		}
	}
	if m.passed.Host != "" && m.config.Required {
		list = append(list, "packets bypass "+m.passed.Host+", because the fast path is required")
	} else if m.passed.Host != "" {
		list = append(list, "left to the daemon, because packets would bypass "+m.passed.Host)
	}
	for _, i := range m.ports {
		if why := m.passed.Interfaces[i]; why != "" {
			list = append(list, fmt.Sprintf("IPv4 inside of the workload at %s bypasses %s", m.host.links[i].name, why))
		}
	}
	if len(m.errs) > 0 {
		list = append(list, fmt.Sprintf("%d interfaces without it", len(m.errs)))
	}
	return list
}

// namesOf are the names of interfaces.
func (m *Manager) namesOf(indexes []int) string {
	var names []string
	for _, i := range indexes {
		names = append(names, m.host.links[i].name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// tell logs one line whenever the state is another.
func (m *Manager) tell() {
	s := m.status()
	line := fmt.Sprint(s.On, s.Attach, s.Detail, s.XDP)
	if line == m.said {
		return
	}
	m.said = line
	state := "off"
	if s.On {
		state = "on"
	}
	m.config.Log.Info("kernel fast path", "state", state, "attach", s.Attach, "layout", fastpath.Layout, "adopted", s.Adopted,
		"interfaces", len(s.Interfaces), "not", s.Detail)
	if s.XDP.Wanted {
		m.config.Log.Info("XDP in front of it", "at", s.XDP.At, "notes", s.XDP.Notes)
	}
}
