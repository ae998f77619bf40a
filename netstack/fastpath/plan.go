//go:build linux

package fastpath

import (
	"errors"
	"fmt"

	"github.com/natless/natless/translator/mapping"
)

// Plan is tables that are written beside those in use, while these are edited. Nobody
// sees them before Commit, which takes no longer for many mappings. It belongs to one
// goroutine.
type Plan struct {
	f *FastPath
	generation
	err error // why it cannot be: what Commit says
}

// Plan writes tables. What is in the way of them is told by Commit.
func (f *FastPath) Plan(t Tables) *Plan {
	f.Settle() // or Commit would have to wait for it
	p := f.plan(t)
	if p.err == nil {
		f.beside.Lock()
		defer f.beside.Unlock()
		if _, p.err = f.place(&p.inner); p.err == nil {
			f.placed = p
		}
	}
	return p
}

func (f *FastPath) plan(t Tables) *Plan {
	p := &Plan{f: f}
	c, s, err := f.encode(&t)
	if err == nil {
		p.inner, err = c.load(s, t.Table.Slots(), f.counterBytes, t.Config.Policy, f.crowded)
	}
	if err != nil {
		p.inner.close()
		p.err = err
		return p
	}
	p.tables, p.state = &t, *s
	return p
}

// Edit follows an edit of the table that is planned for, as FastPath.Edit does.
// Where there is no room any more, Commit writes all anew.
func (p *Plan) Edit(table *mapping.Table, removed, added []mapping.Mapping) {
	if p.inner.by6 == nil {
		return
	}
	t := *p.tables
	t.Table = table
	if err := p.edit(&t, removed, added); err != nil {
		p.inner.close()
	}
	p.tables = &t
}

// Err says what is in the way of Commit.
func (p *Plan) Err() error { return p.err }

// Drop lets go of a plan that is not committed. It may be called again, and after
// Commit.
func (p *Plan) Drop() {
	p.f.beside.Lock()
	defer p.f.beside.Unlock()
	if p.f.placed == p {
		p.f.placed = nil
		var current uint32
		if p.f.maps.Active.Lookup(uint32(0), &current) == nil {
			_ = p.f.forget(1 - current) // where nobody looks, but where it takes memory
		}
	}
	p.inner.close()
}

// Commit has the programs go by the plan, with t in the place of what it was made
// with, whose table and configuration are the plan's. Errors are as those of Replace.
func (p *Plan) Commit(t Tables) error {
	f := p.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.err == nil && p.inner.by6 == nil {
		return f.replace(t)
	}
	p.tables = &t
	return f.adopt(p)
}

// adopt puts a plan in the place of what is in use.
func (f *FastPath) adopt(p *Plan) error {
	if unsupported := (*UnsupportedError)(nil); errors.As(p.err, &unsupported) {
		return errors.Join(p.err, f.disable())
	}
	if p.err != nil {
		return p.err
	}
	before, err := f.visible()
	if err != nil {
		p.inner.close()
		return err
	}
	f.settle() // as a rule it has been
	config, err := p.config(p.tables, f.fibFlags, p.inner.perMapping)
	if err == nil {
		err = f.switchToPlan(p, config)
	}
	if err != nil {
		p.inner.close()
		before.close()
		return err
	}
	f.reading.turn(&p.inner, &before)
	f.inner.close()
	f.generation, p.inner = p.generation, inner{}
	f.beginRules(p.tables.Config.Rules)
	return nil
}

// switchToPlan waits once, for programs that see what was in use, which is taken away
// later.
func (f *FastPath) switchToPlan(p *Plan, c programConfig) error {
	f.beside.Lock()
	defer f.beside.Unlock()
	if f.placed != p {
		return f.commitBeside(&p.inner, c)
	}
	f.placed = nil
	var current uint32
	if err := f.maps.Active.Lookup(uint32(0), &current); err != nil {
		return fmt.Errorf("which tables are in use: %w", err)
	}
	if err := f.switchTo(1-current, c); err != nil {
		return err
	}
	f.left = f.outers()
	return f.await(1-current, &p.inner)
}

// forgetOne takes one map of a generation before away, and says whether there may be
// more.
func (f *FastPath) forgetOne() bool {
	f.beside.Lock()
	defer f.beside.Unlock()
	var current uint32
	if len(f.left) == 0 || f.maps.Active.Lookup(uint32(0), &current) != nil {
		return false
	}
	_ = f.left[0].Delete(1 - current) // the next generation would take its place
	f.left = f.left[1:]
	return true
}
