package attach

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/natless/natless/translator/mapping"
)

// Workloads with IPv4 inside have a program at their own interface, where it is sure
// whose a packet is, and the daemon has one at the TAP, by which it gives them what is
// theirs. Where nothing may be bypassed the programs stay, and steer all to the daemon.

// Supported says why the kernel cannot do what the fast path, and IPv4 inside of
// workloads, takes.
func Supported() error { return probe() }

// Unusable says why the programs stand nowhere, or nil: then no IPv4 of a workload that
// has it inside gets anywhere.
func (m *Manager) Unusable() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unusable()
}

// Former are the tags of workloads with IPv4 inside that an earlier daemon's programs
// go by until there are tables; packets that wait at the TAP bear them.
func (m *Manager) Former() map[mapping.Tag]mapping.Addr6 {
	if !m.adopted {
		return nil
	}
	return m.path.Names()
}

// portOf is where a workload itself is, also at a bridge; 0 where it is not known.
func (h *host) portOf(p netip.Prefix, hint string) int {
	ifindex := h.byName[hint]
	if ifindex == 0 {
		ifindex = h.hops.To(p).Interface
	}
	if l := h.links[ifindex]; !l.ethernet || l.bridge {
		return 0
	}
	return ifindex
}

// findInside notes where a new workload is, which find has asked the kernel for; the
// caller holds mu.
func (m *Manager) findInside(l *located, e *mapping.Entry, w Workload) {
	if e.Inside() {
		l.ports[e.Slot()] = m.host.portOf(w.IPv6, w.Interface)
		m.changed() // its program is to be there, too
	}
}

// attachInside puts programs at the interfaces of new workloads: without them their
// IPv4 leads nowhere, and a container may begin to speak when it is added. The caller
// holds mu.
func (m *Manager) attachInside(added []Workload) error {
	want := map[place]bool{}
	for _, w := range added {
		if e := m.table.Get(w.IPv6); e != nil && e.Inside() && m.ports[e.Slot()] != 0 && m.host.byName[m.config.Inside] != 0 {
			want[place{m.ports[e.Slot()], sent4}] = true
		}
	}
	return m.attach(want)
}

// insideOf answers for the mappings of m.table; the caller holds mu.
func (m *Manager) insideOf(mp mapping.Mapping) int { return m.tables.inside(mp) }

func (t *tables) inside(mp mapping.Mapping) int {
	if e := t.table.Get(mp.IPv6); e != nil {
		return t.ports[e.Slot()]
	}
	return 0
}

// insidePlaces adds where the programs for IPv4 inside are to be; the caller holds mu.
func (m *Manager) insidePlaces(all map[place]bool) {
	tap := m.host.byName[m.config.Inside]
	if tap == 0 {
		return
	}
	all[place{tap, given4}] = true
	for _, i := range m.ports {
		if i != 0 {
			all[place{i, sent4}] = true
		}
	}
}

// movePorts tells the maps of workloads that are at another interface now; the caller
// holds mu.
func (m *Manager) movePorts(found map[uint32]int) error {
	var errs []error
	for slot, now := range found {
		was, there := m.ports[slot]
		if now == was || !there || m.since.slots[slot] {
			continue
		}
		m.ports[slot] = now
		if err := m.setInside(slot); err != nil {
			m.ports[slot] = was
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) setInside(slot uint32) error {
	e := m.table.At(slot)
	if e == nil {
		return fmt.Errorf("IPv4 inside: slot %d is nobody's", slot)
	}
	return m.path.SetInside(e.Mapping())
}

// steer tells the maps whether all goes by the daemon, as packets would bypass something
// of the host's; the caller holds mu. What stands at the ingress of a workload's own
// interface is behind the program, which sends packets on in either case.
func (m *Manager) steer() error {
	next := m.config.Steer || m.passed.Host != "" && !m.config.Required
	m.steering.Store(next)
	if m.unusable() != nil || next == m.ways.Steer {
		return nil
	}
	ways := m.ways
	ways.Steer = next
	return m.setWays(ways)
}
