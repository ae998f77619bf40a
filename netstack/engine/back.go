//go:build linux

package engine

import (
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// wayBack is what going back takes where a plan's table has taken the place of another.
type wayBack struct {
	table  *mapping.Table // that was in force until the swap
	config translator.Config
	at     int // how many of the engine's changes since are in it

	// What takes long is prepared while nobody waits, where the step that failed is
	// behind the swap.
	police func(*mapping.Table, ...guard.Workload) error // nil: it is not prepared
	kernel FastPathPlan                                  // nil: it is not prepared

	written *policy.Table // those that kernel is with
}

// prepareBack makes what going back takes long for. What cannot be made is tried again by
// the way back itself, which says why.
func (p *Plan) prepareBack() {
	if p.back.table == nil {
		return // the table in force was edited, if at all
	}
	parts := &p.engine.parts
	p.back.police, _ = parts.Guard.Plan(p.back.table)
	if parts.FastPath == nil {
		return
	}
	p.back.written = p.back.config.Policy
	kernel := parts.FastPath.Plan(p.back.table, p.back.config)
	if kernel.Err() != nil {
		kernel.Drop()
		return
	}
	p.back.kernel = kernel
}

// tableBefore is the table that was in force before the swap, with all that has changed
// behind it, held to the policies of before. The kernel's tables that are prepared follow.
func (p *Plan) tableBefore() (*mapping.Table, error) {
	table := p.back.table
	for _, c := range p.engine.since[p.back.at:] {
		var err error
		if c.New, p.back.config.Policy, err = held(p.back.config.Policy, c.New); err != nil {
			return nil, err
		}
		after, err := edited(table, c)
		if err != nil {
			return nil, err
		}
		replayFastPath(p.back.kernel, table, after, c)
		table = after
	}
	return table, nil
}

// policeBack has those policed again whom the table before the swap had.
func (p *Plan) policeBack(table *mapping.Table) (err error) {
	police, come := p.back.police, comers(p.engine.since[p.back.at:])
	if police == nil {
		if police, err = p.engine.parts.Guard.Plan(table); err != nil {
			return err
		}
		come = nil // it knows them
	}
	return police(table, come...)
}

// kernelBack has the kernel go by the table before the swap.
func (p *Plan) kernelBack(table *mapping.Table) error {
	prepared, f := p.back.kernel, p.engine.parts.FastPath
	if prepared == nil {
		return p.engine.replaceFastPath(table, p.back.config)
	}
	if err := prepared.Commit(table); err != nil || p.back.config.Policy == p.back.written {
		return err
	}
	return f.Configure(p.back.config) // of numbers that came behind the swap
}

// slotsBack is what the table before the swap means to who counts. Where everybody kept
// his slot with the plan, only those who have changed meanwhile may have another.
func (p *Plan) slotsBack(table *mapping.Table) *accounting.Renumbering {
	e := p.engine
	if !p.stays() {
		return e.renumbering(table, p.moves...)
	}
	slots := e.parts.Accounts.Stay()
	for _, c := range e.since {
		to := accounted(table, c)
		slots.Edit(to, to.Slot)
	}
	return slots
}
