//go:build linux

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// mostEdits is how many explicit mappings may be others for the table in force to
// be edited. Where more are, the next table is made beside it, while nobody waits: as
// an edit of it, in which workloads keep their slots, unless those that go or come are
// more than half of what is in it.
const mostEdits = 1024

// Plan is a state that can be committed: all that takes long is done, and all that
// can be refused has been. Until it is committed or dropped, no other can be made.
type Plan struct {
	engine       *Engine
	before, next *State
	moves        []Change // of workloads that get another mapping with the state

	gone, come []mapping.Mapping // explicit ones, where they are few
	told       bool              // they are all that is another in the state: nobody looks for more
	edited     bool              // the table to be is an edit of the one in force: workloads keep their slots

	written *policy.Table           // those that the kernel's tables beside are with
	numbers map[netip.Prefix]uint16 // of workloads that policies select otherwise; see repolice
	were    map[netip.Prefix]uint16 // their numbers before

	beside   *mapping.Table          // else: the table to be
	replayed int                     // of the engine's changes since: those that it has
	slots    *accounting.Renumbering // nil: nobody counts
	police   func(*mapping.Table, ...guard.Workload) error
	kernel   FastPathPlan // nil: there is no fast path
	back     wayBack

	took Took
}

// Took is how long the parts of a reload took.
type Took struct {
	Plan time.Duration // while nobody waited
	Swap time.Duration // from when the old state alone was in force until the new one alone is, in daemon and kernel
}

// Took is how long it took to make the plan and, once it is committed, to swap.
func (p *Plan) Took() Took { return p.took }

// Plan makes one for a state, in which workloads have moved. Changes are made all
// the while.
func (e *Engine) Plan(next *State, moves ...Change) (*Plan, error) {
	if err := errors.Join(next.Translator.Validate(), next.Routes.Validate()); err != nil {
		return nil, err
	}
	e.one.Lock()
	p := &Plan{engine: e, before: e.State(), next: next, moves: moves}
	if p.before.Translator.Rules.Same(next.Translator.Rules) { // they go on counting
		kept := *next
		kept.Translator.Rules, p.next = p.before.Translator.Rules, &kept
	}
	return p.begin()
}

// PlanExplicit makes a plan for the state in force with other explicit mappings: these go, and
// those come. It takes a time that does not grow with the table.
func (e *Engine) PlanExplicit(gone, come []mapping.Mapping) (*Plan, error) {
	e.one.Lock()
	before := e.State()
	p := &Plan{engine: e, before: before, gone: gone, come: come, told: e.torn == nil}
	explicit, err := exchanged(before.Explicit, before.Explicit.Prefix(), gone, come)
	if err != nil {
		p.Drop()
		return nil, err
	}
	next := *before
	next.Explicit, p.next = explicit, &next
	return p.begin()
}

// begin makes a plan out of the table in force. Changes from now on are replayed.
func (p *Plan) begin() (*Plan, error) {
	e, began := p.engine, time.Now()
	e.mu.Lock()
	base := e.Table()
	e.base, e.since = base, nil
	e.mu.Unlock()
	if err := p.make(base); err != nil {
		p.Drop()
		return nil, err
	}
	p.took.Plan = time.Since(began)
	return p, nil
}

// Drop forgets a plan that is not committed. It may be called again.
func (p *Plan) Drop() {
	if p.engine == nil {
		return
	}
	e := p.engine
	p.engine = nil
	for _, kernel := range []FastPathPlan{p.kernel, p.back.kernel} {
		if kernel != nil {
			kernel.Drop()
		}
	}
	e.mu.Lock()
	e.base, e.since = nil, nil
	e.mu.Unlock()
	e.one.Unlock()
}

func (p *Plan) make(base *mapping.Table) error {
	if err := p.repolice(base); err != nil {
		return err
	}
	for i, c := range p.moves {
		moved, err := p.renumber(c)
		if err != nil {
			return err
		}
		p.moves[i] = moved
	}
	if !p.told {
		most := 0
		if p.engine.torn == nil {
			most = max(mostEdits, base.Len()/2)
		}
		gone, come, few := differences(p.before.Explicit, p.next.Explicit, most)
		if !few {
			p.gone, p.come = nil, nil
			return p.makeBeside(base, p.anew)
		}
		p.gone, p.come = gone, come
	}
	p.edited = true
	if len(p.gone)+len(p.come) > mostEdits || p.changesPrefix() || len(p.numbers) > 0 { // of a workload the kernel has several entries
		if err := p.makeBeside(base, p.edit); err != nil {
			return err
		}
	} else if _, err := p.edit(base); err != nil {
		return err
	}
	if p.told {
		return nil
	}
	// The explicit mappings as an edit of those before have their memory in common.
	explicit, err := exchanged(p.before.Explicit, p.next.Explicit.Prefix(), p.gone, p.come)
	if err != nil {
		return err
	}
	next := *p.next
	next.Explicit, p.next = explicit, &next
	return nil
}

// exchanged is a table with another prefix, and some mappings for others.
func exchanged(of *mapping.Table, prefix netip.Prefix, gone, come []mapping.Mapping) (*mapping.Table, error) {
	edit := of.Edit()
	if err := errors.Join(edit.SetPrefix(prefix), exchange(edit, gone, come)); err != nil {
		return nil, err
	}
	return edit.Table(), nil
}

// anew is a table of the explicit mappings to be, and of the workloads that are in the
// table in force.
func (p *Plan) anew(base *mapping.Table) (*mapping.Table, error) {
	edit := p.next.Explicit.Edit()
	edit.Expect(base.Len() - p.before.Explicit.Len())
	explicit := append([]*mapping.Table{p.before.Explicit}, p.engine.torn...)
	for e := range mapping.Ahead(edit, base.Entries(), (*mapping.Entry).Mapping) {
		if !slices.ContainsFunc(explicit, func(t *mapping.Table) bool { return t.Holds(e) }) {
			if err := edit.Insert(e.Mapping()); err != nil {
				return nil, taken(err)
			}
		}
	}
	for _, c := range p.moves {
		if err := apply(edit, c); err != nil {
			return nil, taken(err)
		}
	}
	p.hold(edit)
	return edit.Table(), nil
}

// makeBeside makes the table to be beside the one in force, and all that goes with it.
func (p *Plan) makeBeside(base *mapping.Table, of func(*mapping.Table) (*mapping.Table, error)) (err error) {
	if p.beside, err = of(base); err != nil {
		return err
	}
	p.engine.settle(p.beside, p.policies())
	if p.stays() {
		p.slots = p.engine.parts.Accounts.Stay()
	}
	if err := p.catchUp(); err != nil {
		return err
	}
	if p.slots == nil {
		p.slots = p.engine.renumbering(p.beside)
	}
	if p.police, err = p.engine.parts.Guard.Plan(p.beside); err != nil {
		return err
	}
	if f := p.engine.parts.FastPath; f != nil {
		p.written = p.policies()
		p.kernel = f.Plan(p.beside, p.next.Translator.Filled())
		return p.kernel.Err()
	}
	return nil
}

// stays reports whether everybody who is counted keeps his slot with the plan.
func (p *Plan) stays() bool {
	return p.edited && len(p.moves) == 0 && p.engine.parts.Accounts != nil
}

// changesPrefix reports whether the RFC 6052 prefix is another. The kernel's tables have
// it in each of their entries, so that they are written anew.
func (p *Plan) changesPrefix() bool { return p.before.Explicit.Prefix() != p.next.Explicit.Prefix() }

// holds reports whether a table has a mapping.
func holds(table *mapping.Table, m mapping.Mapping) bool {
	have := table.Get(m.IPv6)
	return have != nil && have.Mapping().Equal(m)
}

// taken says what to do about an explicit mapping that a workload stands in the
// way of.
func taken(err error) error {
	return fmt.Errorf("a workload has it (natless whois, natless workloads delete): %w", err)
}

// differences are the explicit mappings that go and come, unless either are more than
// most.
func differences(before, next *mapping.Table, most int) (gone, come []mapping.Mapping, few bool) {
	if before == next {
		return nil, nil, true
	}
	if most == 0 {
		return nil, nil, false
	}
	lacks := func(in, other *mapping.Table, want int) (list []mapping.Mapping, few bool) {
		for e := range in.Entries() {
			if want == 0 {
				break
			}
			if other.Holds(e) {
				continue
			}
			want--
			if list = append(list, e.Mapping()); len(list) > most {
				return nil, false
			}
		}
		return list, true
	}
	gone, few = lacks(before, next, before.Len())
	if !few {
		return nil, nil, false
	}
	// What they have in common is known by now, and so how many come.
	come, few = lacks(next, before, next.Len()-(before.Len()-len(gone)))
	return gone, come, few
}

// exchange takes mappings away and adds others.
func exchange(edit *mapping.Edit, gone, come []mapping.Mapping) error {
	for _, m := range gone {
		if err := edit.Remove(m); err != nil {
			return err
		}
	}
	for _, m := range come {
		if err := edit.Insert(m); err != nil {
			if c := (*mapping.Collision)(nil); errors.As(err, &c) { // it is the workload that would lose
				err = &mapping.Collision{Mapping: c.With, With: c.Mapping, What: c.What}
			}
			return taken(err)
		}
	}
	return nil
}

// edit is a table with the differences that the plan is about.
func (p *Plan) edit(table *mapping.Table) (*mapping.Table, error) {
	edit := table.Edit()
	if err := edit.SetPrefix(p.next.Explicit.Prefix()); err != nil {
		return nil, err
	}
	if err := exchange(edit, p.gone, p.come); err != nil {
		return nil, err
	}
	for _, c := range p.moves {
		if !holds(table, c.Old.Mapping) {
			continue // it has gone, or has something else by now
		}
		if err := apply(edit, c); err != nil {
			return nil, taken(err)
		}
	}
	p.hold(edit)
	return edit.Table(), nil
}

// unedit is a table without the differences, whatever else has changed since.
func (p *Plan) unedit(table *mapping.Table) (*mapping.Table, error) {
	edit := table.Edit()
	for _, c := range p.moves {
		if holds(table, c.New.Mapping) {
			if err := apply(edit, Change{Old: c.New, New: c.Old}); err != nil {
				return nil, err
			}
		}
	}
	if err := exchange(edit, p.come, p.gone); err != nil {
		return nil, err
	}
	return edit.Table(), nil
}

// fewLeft is how many changes may be left to be replayed while others wait.
const fewLeft = 64

// catchUp replays onto the table to be what has changed since, but for the last few.
func (p *Plan) catchUp() error {
	for p.beside != nil {
		p.engine.mu.Lock()
		changes := p.engine.since[p.replayed:]
		p.engine.mu.Unlock()
		if len(changes) < fewLeft {
			return nil
		}
		if err := p.replay(changes); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) replay(changes []Change) error {
	for _, c := range changes {
		before := p.beside
		c, err := p.renumber(c)
		if err != nil {
			return err
		}
		table, err := edited(before, c)
		if err != nil {
			return taken(err)
		}
		p.beside = table
		p.replayed++
		if p.slots != nil {
			to := accounted(table, c)
			p.slots.Edit(to, to.Slot)
		}
		replayFastPath(p.kernel, before, table, c)
	}
	return nil
}

// replayFastPath has the kernel's tables to be follow a change. What goes is what the
// table to be had of the workload: it may have moved with the plan.
func replayFastPath(kernel FastPathPlan, before, after *mapping.Table, c Change) {
	if kernel == nil {
		return
	}
	var gone, come []attach.Workload
	if c.Old != nil {
		if have := before.Get(c.Old.IPv6); have != nil {
			gone = append(gone, attach.Workload{Mapping: have.Mapping(), Interface: c.Old.Interface})
		}
	}
	if c.New != nil {
		come = append(come, c.New.located())
	}
	kernel.Edit(after, gone, come)
}

// changesTranslator says whether the table or the way that packets are translated
// is another, and changesConfig the latter.
func (p *Plan) changesTranslator() bool {
	return p.beside != nil || len(p.gone)+len(p.come)+len(p.moves) > 0 || p.changesConfig()
}

func (p *Plan) changesConfig() bool {
	before, next := configOf(p.before.Translator, nil), configOf(p.next.Translator, nil)
	return !reflect.DeepEqual(before, next) || !p.before.Translator.Rules.Same(p.next.Translator.Rules) || !p.policies().Same(p.before.Translator.Policy)
}
