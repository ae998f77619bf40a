package attach

import (
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Plan is other tables, which are written beside those in force while these are
// edited. It belongs to one goroutine, and is dropped in the end.
type Plan struct {
	m *Manager
	tables
	plan *fastpath.Plan
	err  error // the host could not be read
}

// Plan writes tables, and changes nothing that is in force. What is in the way of
// them is told by Err, and by Commit.
func (m *Manager) Plan(table *mapping.Table, c translator.Config) *Plan {
	m.looking.Lock()
	defer m.looking.Unlock()
	m.mu.Lock()
	in := inForce{table: table, translation: c, routed: m.routed, alone: m.ways.Alone}
	m.mu.Unlock()
	v, err := m.look(in)
	if err != nil {
		return &Plan{m: m, err: err, tables: tables{table: table, translation: c}}
	}
	return m.planOf(v, in, m.locate(v.host, table, nil))
}

func (m *Manager) planOf(v *view, in inForce, found located) *Plan {
	p := &Plan{m: m, tables: tables{table: in.table, translation: in.translation, located: found, ways: v.ways}}
	p.plan = m.path.Plan(fastpath.Tables{Table: in.table, Config: in.translation, Host: v.ways,
		Interface: func(mp mapping.Mapping) int { return p.of(p.table, mp) },
		Inside:    p.tables.inside})
	return p
}

// Err says why the tables cannot be.
func (p *Plan) Err() error {
	if p.plan == nil {
		return p.err
	}
	return p.plan.Err()
}

// Edit follows an edit of the table that is planned for, as Manager.Edit does.
func (p *Plan) Edit(table *mapping.Table, removed, added []Workload) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.edit(table, removed, added)
}

// edit is Edit; the caller holds the manager's mu.
func (p *Plan) edit(table *mapping.Table, removed, added []Workload) {
	if p.plan == nil {
		return
	}
	for _, w := range removed {
		if e := p.table.Get(w.IPv6); e != nil {
			p.set(e.Slot(), nobody)
			delete(p.ports, e.Slot())
		}
	}
	p.table = table
	for _, w := range added {
		if e := table.Get(w.IPv6); e != nil {
			p.set(e.Slot(), int32(p.m.find(w)))
			p.m.findInside(&p.located, e, w)
		}
	}
	p.plan.Edit(table, mappings(removed), mappings(added))
}

// Commit puts the plan in force, whose table has become this one, in a moment. Errors
// are as those of Manager.Replace.
func (p *Plan) Commit(table *mapping.Table) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	first := p.m.table == nil
	err := p.commit(table, p.translation)
	if first {
		p.m.path.Forget() // a daemon's figures begin with it
	}
	return err
}

func (p *Plan) commit(table *mapping.Table, c translator.Config) error {
	m := p.m
	m.table, m.translation, m.epoch = table, c, m.epoch+1
	m.concern.Store(nil)
	if p.plan == nil {
		m.located = located{count: map[int]int{}, ports: map[uint32]int{}}
		return m.judge(p.err)
	}
	m.located, m.ways = p.located, p.ways
	return m.judge(p.plan.Commit(fastpath.Tables{Table: table, Config: c, Interface: m.interfaceOf, Inside: m.insideOf, Host: m.ways}))
}

// Drop lets go of what is not committed. It may be called again.
func (p *Plan) Drop() {
	if p.plan != nil {
		p.plan.Drop()
	}
}
