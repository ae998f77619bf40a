package attach

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/natless/natless/netstack/fastpath"
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
	hints       hints
	at          []int         // by slot: the interface where its packets come in, 0 for none
	count       map[int]int   // mappings by interface
	nowhere     int           // mappings without one
	ways        fastpath.Host // how the host leads packets
	unsupported error         // why the programs cannot do it: they pass everything on
	stale       error         // why the maps are not what they should be: nothing may be attached
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
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range all {
		if w.Interface != "" {
			m.hints[w.IPv6.Addr()] = w.Interface
		}
	}
}

// Replace puts other tables in force, at once. When it fails, nothing is
// attached any more, so that no packet goes by tables that are not in force,
// and it is tried again. An error is for who required the fast path.
func (m *Manager) Replace(table *mapping.Table, c translator.Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.table == nil
	m.table, m.translation = table, c
	err := m.replace()
	if first {
		m.path.Forget() // a daemon's figures begin with it
	}
	return err
}

func (m *Manager) replace() error {
	m.ways = m.wayFinding()
	m.at = make([]int, m.table.Slots())
	for e := range m.table.Entries() {
		mp := e.Mapping()
		m.at[e.Slot()] = m.host.interfaceOf(mp, m.hints[mp.IPv6.Addr()])
	}
	m.recount()
	err := m.path.Replace(fastpath.Tables{Table: m.table, Config: m.translation, Interface: m.interfaceOf, Host: m.ways})
	return m.judge(err)
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
	defer m.mu.Unlock()
	m.translation = c
	if m.table == nil || m.unsupported != nil || m.stale != nil {
		return m.replace()
	}
	return m.judge(m.path.Configure(c))
}

// interfaceOf answers for the mappings of m.table.
func (m *Manager) interfaceOf(mp mapping.Mapping) int {
	if e := m.table.Get(mp.IPv6); e != nil && int(e.Slot()) < len(m.at) {
		return m.at[e.Slot()]
	}
	return 0
}

func (m *Manager) recount() {
	m.count, m.nowhere = map[int]int{}, 0
	for e := range m.table.Entries() {
		m.counted(m.at[e.Slot()], 1)
	}
}

func (m *Manager) counted(ifindex, n int) {
	if ifindex == 0 {
		m.nowhere += n
	} else {
		m.count[ifindex] += n
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
	gone, come := make([]mapping.Mapping, len(removed)), make([]mapping.Mapping, len(added))
	for i, w := range removed {
		gone[i] = w.Mapping
		if e := m.table.Get(w.IPv6); e != nil && int(e.Slot()) < len(m.at) {
			m.counted(m.at[e.Slot()], -1)
			m.at[e.Slot()] = 0
		}
		delete(m.hints, w.IPv6.Addr())
	}
	m.table = table
	for len(m.at) < table.Slots() {
		m.at = append(m.at, 0)
	}
	for i, w := range added {
		come[i] = w.Mapping
		if e := table.Get(w.IPv6); e != nil {
			m.at[e.Slot()] = m.find(w)
			m.counted(m.at[e.Slot()], 1)
		}
	}
	if m.unsupported != nil || m.stale != nil {
		m.changed() // all is written anew then
		return errors.Join(m.unsupported, m.stale)
	}
	err := m.judge(m.path.Edit(table, gone, come))
	if err != nil {
		m.config.Log.Warn("the fast path cannot follow, packets take the way through the daemon", "error", err)
	}
	return err
}

// find is where a new workload is; the last survey may not know its interface.
func (m *Manager) find(w Workload) int {
	if w.Interface != "" {
		m.hints[w.IPv6.Addr()] = w.Interface
		if l, err := m.handle.LinkByName(w.Interface); err == nil {
			m.host.addLink(l)
		}
		return m.host.interfaceOf(w.Mapping, w.Interface)
	}
	i := m.host.hops.Ask(w.IPv6.Addr()).Interface
	if !m.host.links[i].ethernet {
		return 0
	}
	return i
}

// locate tells the maps what has changed on the host.
func (m *Manager) locate() error {
	if m.table == nil {
		return nil
	}
	if m.stale != nil || m.unsupported != nil {
		err := m.replace()
		if m.unsupported != nil && !m.config.Required {
			return nil // no waiting helps
		}
		return err
	}
	var errs []error
	if ways := m.wayFinding(); ways != m.ways {
		if err := m.path.SetHost(ways); err != nil {
			errs = append(errs, err)
		} else {
			m.ways = ways
		}
	}
	for e := range m.table.Entries() {
		mp := e.Mapping()
		now := m.host.interfaceOf(mp, m.hints[mp.IPv6.Addr()])
		was := m.at[e.Slot()]
		if now == was {
			continue
		}
		if err := m.path.SetInterface(mp, now); err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", mp, err))
			continue
		}
		m.at[e.Slot()] = now
		m.counted(was, -1)
		m.counted(now, 1)
	}
	return errors.Join(errs...)
}

// Pause has the programs pass everything on while on, so that every packet
// takes the way through the daemon.
func (m *Manager) Pause(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.path.Pause(on)
}
