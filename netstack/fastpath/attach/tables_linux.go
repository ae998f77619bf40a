package attach

import (
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/internal/nexthops"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// hints say at which interface the workload with an IPv6 address is.
type hints map[netip.Addr]string

// Workload is a mapping of a workload, and the name of the host's end of its
// link; "" where only routes tell.
type Workload struct {
	mapping.Mapping
	Interface string
}

// tables is what the maps hold, or should.
type tables struct {
	table       *mapping.Table // nil before the first Replace
	translation translator.Config
	epoch       int // counts tables that are no edit of those before
	located
	ways        fastpath.Host // how the host leads packets
	unsupported error         // why the programs cannot do it: they pass everything on
	stale       error         // why the maps are not what they should be: nothing may be attached
}

// located is where workloads are.
type located struct {
	at      []int32        // by slot: the interface where its packets come in, 0 for none
	count   map[int]int    // mappings by interface
	nowhere int            // mappings without one
	ports   map[uint32]int // by slot: the own interface of a workload with IPv4 inside
}

// nobody is at a slot that no mapping has.
const nobody = -1

// set notes where the workload of a slot is.
func (l *located) set(slot uint32, ifindex int32) {
	for len(l.at) <= int(slot) {
		l.at = append(l.at, nobody)
	}
	l.add(l.at[slot], -1)
	l.at[slot] = ifindex
	l.add(ifindex, 1)
}

func (l *located) add(ifindex int32, n int) {
	switch ifindex {
	case nobody:
	case 0:
		l.nowhere += n
	default:
		l.count[int(ifindex)] += n
	}
}

// of is where a mapping's workload is, by its slot in a table.
func (l *located) of(table *mapping.Table, mp mapping.Mapping) int {
	if e := table.Get(mp.IPv6); e != nil && int(e.Slot()) < len(l.at) {
		return max(int(l.at[e.Slot()]), 0)
	}
	return 0
}

// locate finds where all workloads of a table are, and notes it in room where that is
// enough.
func (m *Manager) locate(h *host, table *mapping.Table, room []int32) located {
	l := located{at: slices.Grow(room[:0], table.Slots())[:table.Slots()], count: map[int]int{}, ports: map[uint32]int{}}
	for i := range l.at {
		l.at[i] = nobody
	}
	for e := range table.Entries() {
		p := e.IPv6()
		i := int32(h.interfaceOf(p, m.hint(p.Addr())))
		l.at[e.Slot()] = i
		l.add(i, 1)
		if e.Inside() {
			l.ports[e.Slot()] = h.portOf(p, m.hint(p.Addr()))
		}
	}
	return l
}

// unusable says why nothing should be attached.
func (t *tables) unusable() error {
	if t.table == nil {
		return errors.New("it has no tables yet")
	}
	return errors.Join(t.unsupported, t.stale)
}

// Hint says at which interfaces workloads are, before their mappings come.
func (m *Manager) Hint(all iter.Seq[Workload]) {
	for w := range all {
		m.setHint(w.IPv6.Addr(), w.Interface)
	}
}

// setHint notes at which interface an address is said to be; "": at none.
func (m *Manager) setHint(a netip.Addr, name string) {
	m.names.Lock()
	defer m.names.Unlock()
	if name == "" {
		delete(m.hints, a)
	} else {
		m.hints[a] = name
	}
}

func (m *Manager) hint(a netip.Addr) string {
	m.names.RLock()
	defer m.names.RUnlock()
	return m.hints[a]
}

// Replace puts other tables in force, at once, after it has written them. When it
// fails, nothing is attached any more, so that no packet goes by tables that are not
// in force, and it is tried again. An error is for who required the fast path.
func (m *Manager) Replace(table *mapping.Table, c translator.Config) error {
	p := m.Plan(table, c)
	defer p.Drop()
	return p.Commit(table)
}

// judge takes note of what became of the maps. What cannot be trusted is
// detached here and now.
func (m *Manager) judge(err error) error {
	m.unsupported, m.stale = nil, nil
	if e := (*fastpath.UnsupportedError)(nil); errors.As(err, &e) {
		m.unsupported = err
	} else if err != nil {
		m.stale = err
	}
	if err != nil {
		if off := m.detachAllBut(nil); off != nil {
			m.config.Log.Error("the fast path may translate by old tables", "error", off)
		}
	}
	m.changed()
	return err
}

// Configure puts another configuration in force, for the same mappings. Errors are
// as those of Replace.
func (m *Manager) Configure(c translator.Config) error {
	m.mu.Lock()
	table := m.table
	if table != nil && m.unsupported == nil && m.stale == nil {
		defer m.mu.Unlock()
		m.translation = c
		m.concern.Store(nil)
		return m.judge(m.path.Configure(c))
	}
	m.mu.Unlock()
	return m.Replace(table, c)
}

// interfaceOf answers for the mappings of m.table; the caller holds mu.
func (m *Manager) interfaceOf(mp mapping.Mapping) int { return m.of(m.table, mp) }

// set notes where the workload of a slot is now.
func (m *Manager) set(slot uint32, ifindex int32) {
	m.located.set(slot, ifindex)
	if m.since.slots != nil {
		m.since.slots[slot] = true
	}
}

// Edit follows an edit of the translator's table: table is what came of it. It
// returns when the kernel goes by it, or by nothing any more; then an error says why.
func (m *Manager) Edit(table *mapping.Table, removed, added []Workload) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.table == nil {
		return nil
	}
	for _, w := range removed {
		if e := m.table.Get(w.IPv6); e != nil {
			m.set(e.Slot(), nobody)
			delete(m.ports, e.Slot())
		}
		m.setHint(w.IPv6.Addr(), "")
	}
	m.table = table
	m.concern.Store(nil)
	for _, w := range added {
		if e := table.Get(w.IPv6); e != nil {
			m.set(e.Slot(), int32(m.find(w)))
			m.findInside(&m.located, e, w)
		}
	}
	if m.unsupported != nil || m.stale != nil {
		if m.since.keep {
			m.since.edits = append(m.since.edits, edit{table, removed, added})
		}
		m.changed() // all is written anew then
		return errors.Join(m.unsupported, m.stale)
	}
	err := m.judge(m.path.Edit(table, mappings(removed), mappings(added)))
	if err == nil {
		err = m.attachInside(added)
	}
	if err != nil {
		m.config.Log.Warn("the fast path cannot follow, packets take the way through the daemon", "error", err)
	}
	return err
}

func mappings(all []Workload) []mapping.Mapping {
	list := make([]mapping.Mapping, len(all))
	for i, w := range all {
		list[i] = w.Mapping
	}
	return list
}

// find is where a new workload is; the last survey may not know its interface. The
// caller holds mu.
func (m *Manager) find(w Workload) int {
	if w.Interface != "" {
		m.setHint(w.IPv6.Addr(), w.Interface)
		if l, err := m.handle.LinkByName(w.Interface); err == nil {
			m.host.addLink(l)
			if m.since.slots != nil {
				m.since.links = append(m.since.links, l.Attrs().Index)
			}
		}
		return m.host.interfaceOf(w.IPv6, w.Interface)
	}
	to := nexthops.Ask(m.handle, w.IPv6.Addr())
	if m.host.byFabric(to) {
		return fastpath.Fabric
	}
	i := to.Interface
	if !m.host.links[i].ethernet {
		return 0
	}
	return i
}

// Divert has every packet take the way through the daemon for a while: see FastPath.Divert.
func (m *Manager) Divert(during time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.path.Divert(during)
}
