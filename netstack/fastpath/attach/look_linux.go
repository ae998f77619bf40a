package attach

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// inForce is what a look at the host goes by.
type inForce struct {
	table       *mapping.Table
	translation translator.Config
	epoch       int
	broken      bool // the maps are to be written anew
	routed      bool
	alone       bool // fastpath.Host.Alone, as it was
}

// view is the host at one moment.
type view struct {
	host     *host
	forwards bool
	uplinks  []int
	ces      []int // where packets of CEs come in
	ways     fastpath.Host
}

// since is what has changed since a look at the host began.
type since struct {
	slots map[uint32]bool // whose workloads came or went; nil: nobody looks
	links []int           // that were found
	edits []edit          // for tables that are being written
	keep  bool            // edits
}

// edit is one of the table, after which it is this one.
type edit struct {
	table      *mapping.Table
	gone, come []Workload
}

// reconcile looks at the host and puts everything where it should be. Whoever changes
// a workload meanwhile waits for none of what takes long.
func (m *Manager) reconcile() error {
	m.looking.Lock()
	defer m.looking.Unlock()
	began := time.Now()
	defer func() { m.took = time.Since(began) }()
	m.path.Settle()
	for {
		in := m.begin()
		err := m.reconcileOnce(&in)
		if errors.Is(err, errOvertaken) {
			continue
		}
		m.end()
		return err
	}
}

func (m *Manager) reconcileOnce(in *inForce) error {
	v, err := m.look(*in)
	if err != nil {
		return err
	}
	err = m.follow(v, in)
	if errors.Is(err, errOvertaken) {
		return err
	}
	return m.putPrograms(*in, err)
}

// errOvertaken says that other tables came into force since a look began.
var errOvertaken = errors.New("other tables are in force")

// begin is what is in force. From now on what changes is noted.
func (m *Manager) begin() inForce {
	m.mu.Lock()
	defer m.mu.Unlock()
	broken := m.table != nil && (m.stale != nil || m.unsupported != nil)
	m.since = since{slots: map[uint32]bool{}, keep: broken}
	m.concern.Store(nil) // all that happens meanwhile is looked at
	in := m.inForce()
	in.broken = broken
	return in
}

// inForce is what is in force; the caller holds mu.
func (m *Manager) inForce() inForce {
	return inForce{table: m.table, translation: m.translation, epoch: m.epoch, routed: m.routed, alone: m.ways.Alone}
}

// end has nothing noted any more.
func (m *Manager) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since = since{}
}

// still does what is of tables that are in force still.
func (m *Manager) still(in inForce, f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch != in.epoch {
		return errOvertaken
	}
	return f()
}

// look surveys the host.
func (m *Manager) look(in inForce) (v *view, err error) {
	v = new(view)
	if v.host, err = readHost(m.surveying, m.config.Fabric); err != nil {
		return nil, err
	}
	device := v.host.byName[m.config.Device]
	v.forwards = device == 0 || v.host.forwards(device, in.translation.Edge.Enabled())
	if e := in.translation.Edge; e.Enabled() {
		v.uplinks = v.host.toRelays(slices.Concat(m.config.Uplinks, m.config.Fabric), m.config.Device, e.Prefix)
	} else if v.uplinks, err = v.host.uplinks(m.config.Uplinks, m.config.Device); err != nil {
		return nil, err
	}
	v.ces = v.host.customers(in.translation.Rules)
	v.ways, m.many = m.wayFinding(v, in)
	m.parts = nil
	if v.ways.Alone && !m.many {
		m.parts = partsOf(m.listing)
	}
	return v, nil
}

// see is what the host is like from now on; the caller holds mu. Interfaces of who came
// since may be newer than the look.
func (m *Manager) see(v *view) {
	for _, i := range m.since.links {
		l := m.host.links[i]
		v.host.links[i], v.host.byName[l.name] = l, i
	}
	m.host, m.forwards, m.uplinks, m.ces = v.host, v.forwards, v.uplinks, v.ces
}

// follow tells the maps what has changed on the host.
func (m *Manager) follow(v *view, in *inForce) error {
	if in.table == nil {
		return m.still(*in, func() error { m.see(v); return nil })
	}
	if in.broken {
		found := m.locate(v.host, in.table, nil)
		err := m.rewrite(v, in, found)
		if unsupported := (*fastpath.UnsupportedError)(nil); errors.As(err, &unsupported) && !m.config.Required {
			return nil // no waiting helps
		}
		return err
	}
	found := m.locate(v.host, in.table, m.room)
	m.room = found.at
	errs := []error{m.still(*in, func() error { m.see(v); return m.setWays(v.ways) })}
	for slot := 0; slot < len(found.at) && !errors.Is(errs[0], errOvertaken); {
		err := m.still(*in, func() (err error) {
			slot, err = m.moveSome(found.at, slot)
			return err
		})
		if errors.Is(err, errOvertaken) {
			return err
		}
		errs = append(errs, err)
	}
	errs = append(errs, m.still(*in, func() error { return m.movePorts(found.ports) }))
	return errors.Join(errs...)
}

func (m *Manager) setWays(ways fastpath.Host) error {
	if ways == m.ways {
		return nil
	}
	if !ways.Alone {
		_ = m.path.Assure(0) // SetHost says so, too
	}
	err := m.path.SetHost(ways)
	if err == nil {
		m.ways = ways
	}
	return err
}

// Of so many slots, and of so many workloads that have moved, the maps are told
// without letting others change something in between.
const (
	slotsAtOnce = 1 << 17
	movesAtOnce = 256
)

// moveSome tells the maps of workloads that have moved, from a slot on, and says which
// slot is next.
func (m *Manager) moveSome(found []int32, slot int) (next int, err error) {
	var errs []error
	end := min(slot+slotsAtOnce, len(found), len(m.at))
	for moved := 0; slot < end && moved < movesAtOnce; slot++ {
		now, was := found[slot], m.at[slot]
		if now == was || now == nobody || was == nobody || m.since.slots[uint32(slot)] {
			continue
		}
		moved++
		mp := m.table.At(uint32(slot)).Mapping()
		if err := m.path.SetInterface(mp, int(now)); err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", mp, err))
			continue
		}
		m.set(uint32(slot), now)
	}
	if slot >= len(m.at) {
		slot = len(found)
	}
	return slot, errors.Join(errs...)
}

// rewrite writes the tables in force anew.
func (m *Manager) rewrite(v *view, in *inForce, found located) error {
	p := m.planOf(v, *in, found)
	defer p.Drop()
	for {
		var edits []edit
		if err := m.still(*in, func() error { edits, m.since.edits = m.since.edits, nil; return nil }); err != nil {
			return err
		}
		for _, e := range edits {
			p.Edit(e.table, e.gone, e.come)
		}
		if len(edits) == 0 {
			break
		}
	}
	return m.still(*in, func() error {
		for _, e := range m.since.edits {
			p.edit(e.table, e.gone, e.come)
		}
		m.see(v)
		err := p.commit(m.table, m.translation)
		in.epoch = m.epoch // whose look this is
		return err
	})
}

// putPrograms puts programs where they should be. amiss is what went wrong before.
func (m *Manager) putPrograms(in inForce, amiss error) error {
	var s scene
	if err := m.still(in, func() error { s = m.scene(); return nil }); err != nil {
		return err
	}
	passed, unasked := m.surveyed(s), unasked(s.workloads)
	abilities := m.abilities(s)
	left, unread := m.hook.left()
	return m.still(in, func() error {
		m.passed, m.unasked = passed, unasked
		amiss = errors.Join(amiss, m.steer())
		want := m.wanted()
		// Nobody has looked what is at a place that is new: a program that packets bypass
		// something by waits for the next look.
		maps.DeleteFunc(want, func(p place, _ bool) bool { return !s.places[p] && !p.role.inside() })
		m.placeFronts(want, abilities)
		err := errors.Join(amiss, unread, m.leaveFronts(want), m.detachBut(want, left), m.attach(want), m.attachFronts(want))
		if m.fresh && err == nil {
			err = m.pin()
		} else if m.verified && err == nil {
			m.pinPrograms()
		}
		m.tell()
		return err
	})
}
