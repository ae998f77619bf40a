//go:build linux

package engine

import (
	"errors"
	"iter"
	"net/netip"

	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
)

// Check says whether a change can be made, and makes nothing: it costs a few
// lookups.
func (e *Engine) Check(c Change) error {
	if c.New == nil {
		return nil
	}
	var instead mapping.Mapping
	if c.Old != nil {
		instead = c.Old.Mapping
	}
	return e.Table().Check(c.New.Mapping, instead)
}

// Edit makes a change, whatever the size of the table, also while a plan is made:
// what that comes to has the change, too. When it fails, nothing has changed.
func (e *Engine) Edit(c Change) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, was := e.Table(), e.Policy()
	c, policies, err := e.held(c)
	if err != nil {
		return err
	}
	after, err := edited(before, c)
	if err != nil {
		return err
	}
	if c.New != nil { // policed before its packets are translated
		if err := e.parts.Guard.Put(after, c.New.policed()); err != nil {
			return err
		}
	}
	if err = e.swapTable(after, policies, func() { e.account(after, c) }); err != nil {
		if c.New != nil {
			e.parts.Guard.Delete(before, c.New.policed())
		}
		return err
	}
	if e.base != nil {
		e.since = append(e.since, c)
	}
	e.followPolicies(was)
	e.follow(after, c)
	e.tell(before, c)
	return nil
}

// edited is a table after a change. Of the old workload goes whatever it has: a plan
// may have given it another address.
func edited(t *mapping.Table, changes ...Change) (*mapping.Table, error) {
	edit := t.Edit()
	for _, c := range changes {
		if err := apply(edit, c); err != nil {
			return nil, err
		}
	}
	return edit.Table(), nil
}

func apply(edit *mapping.Edit, c Change) error {
	if c.Old != nil {
		err := edit.Remove(c.Old.Mapping)
		if errors.Is(err, mapping.ErrNotFound) {
			if have := edit.Get(c.Old.IPv6); have != nil {
				err = edit.Remove(have.Mapping())
			} else {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	if c.New != nil {
		return edit.Insert(c.New.Mapping)
	}
	return nil
}

// account tells who counts of a change, before the table that it came to is in force.
func (e *Engine) account(table *mapping.Table, changes ...Change) {
	if e.parts.Accounts == nil {
		return
	}
	for _, c := range changes {
		e.parts.Accounts.Change(accounted(table, c))
	}
}

func accounted(table *mapping.Table, c Change) (to accounting.Change) {
	if c.Old != nil {
		to.Old = c.Old.Serial
	}
	if c.New != nil {
		to.New, to.Slot = c.New.Serial, slotOf(table, c.New.IPv6)
	}
	return to
}

func slotOf(table *mapping.Table, p netip.Prefix) uint32 {
	if entry := table.Get(p); entry != nil {
		return entry.Slot()
	}
	return 0
}

// renumbering is what another table means to who counts, where moves are taken back.
func (e *Engine) renumbering(table *mapping.Table, back ...Change) *accounting.Renumbering {
	if e.parts.Accounts == nil {
		return nil
	}
	were := map[uint64]uint64{}
	for _, c := range back {
		were[c.New.Serial] = c.Old.Serial
	}
	return e.parts.Accounts.Plan(e.places(table, were))
}

// places are where a table has everybody's mapping. Of those whose move is taken
// back, were has the serial before by the one since.
func (e *Engine) places(table *mapping.Table, were map[uint64]uint64) iter.Seq[accounting.Place] {
	return func(yield func(accounting.Place) bool) {
		for p, o := range e.parts.Owners() {
			if was := were[o.Serial]; was != 0 {
				o = Owner{Serial: was, Succeeds: o.Serial}
			}
			if !yield(accounting.Place{Serial: o.Serial, Succeeds: o.Succeeds, Slot: slotOf(table, p)}) {
				return
			}
		}
	}
}

// follow tells fast path and guard what has become of the table.
func (e *Engine) follow(table *mapping.Table, c Change) {
	var gone, come []attach.Workload
	if c.Old != nil {
		gone = append(gone, c.Old.located())
	}
	if c.New != nil {
		come = append(come, c.New.located())
	}
	if e.parts.FastPath != nil {
		_ = e.parts.FastPath.Edit(table, gone, come) // it has said so, and packets come here
	}
	if c.Old != nil && (c.New == nil || c.New.IPv6 != c.Old.IPv6) {
		e.parts.Guard.Delete(table, c.Old.policed())
	}
}

// tell tells who must know that something was assigned or given back.
func (e *Engine) tell(before *mapping.Table, c Change) {
	if c.New != nil && e.takes(c.New.Mapping) {
		e.parts.Routes.Look()
	}
	if c.Old != nil && e.State().Outside[c.Old.IPv4.Addr()] {
		select {
		case e.givenBack <- struct{}{}:
		default:
		}
	}
	if c.New == nil || c.Old != nil && c.Old.IPv4 == c.New.IPv4 {
		return
	}
	// Who had the address before may have been somewhere else.
	if have := before.Lookup4(mapping.Addr4From(c.New.IPv4.Addr())); have == nil || !have.Shared() {
		e.parts.Routes.Assigned(c.New.IPv4.Addr())
	}
}

// NoteInUse says which ports of its own address the host uses itself.
func (e *Engine) NoteInUse(u route.InUse) { e.inUse.Store(&u) }

// InUse is what NoteInUse was told last; nil before.
func (e *Engine) InUse() *route.InUse { return e.inUse.Load() }

// takes says whether a mapping has ports that the host uses.
func (e *Engine) takes(m mapping.Mapping) bool {
	u := e.inUse.Load()
	return u != nil && u.Addr == m.IPv4.Addr() && !u.Ports.IsZero() && (m.Ports.IsZero() || m.Ports.Overlaps(u.Ports))
}

// Moved follows a workload that keeps its mapping and is at another interface, is called
// otherwise or has other labels.
func (e *Engine) Moved(before, now Workload) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	table := e.Table()
	if table.Get(now.IPv6) == nil {
		return nil // it has gone again
	}
	table, err := e.relabel(table, &before, &now)
	if err != nil {
		return err
	}
	if err := e.parts.Guard.Put(table, now.policed()); err != nil {
		return err
	}
	if e.parts.FastPath != nil {
		_ = e.parts.FastPath.Edit(table, []attach.Workload{before.located()}, []attach.Workload{now.located()})
	}
	return nil
}

func policed(all []mapping.Mapping) (some []guard.Workload) {
	for _, m := range all {
		some = append(some, guard.Workload{Mapping: m})
	}
	return some
}

func located(all []mapping.Mapping) (some []attach.Workload) {
	for _, m := range all {
		some = append(some, attach.Workload{Mapping: m})
	}
	return some
}
