//go:build linux

package engine

import (
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Policies are compiled by who makes a state. What sets of them workloads are selected by
// is for the engine: each has a number, which stands with the workload's mapping, in the
// daemon's table and in the kernel's. A number means the same in the policies in force
// and in those that are planned, which may have another one for a workload.

// Policy are the policies in force; nil: there are none.
func (e *Engine) Policy() *policy.Table { return e.parts.Translator.Config().Policy }

// held is a workload with the number of what policies hold it to, and policies that have
// that number.
func held(policies *policy.Table, w *Workload) (*Workload, *policy.Table, error) {
	if w == nil || policies == nil && w.Policy == 0 {
		return w, policies, nil
	}
	n, err := policies.Number(w.Subject)
	if err != nil {
		return nil, nil, err
	}
	own := *w
	own.Policy = n
	policies, err = policies.With(n)
	return &own, policies, err
}

// held is a change of somebody who is held to the policies in force.
func (e *Engine) held(c Change) (Change, *policy.Table, error) {
	var policies *policy.Table
	var err error
	c.New, policies, err = held(e.Policy(), c.New)
	return c, policies, err
}

// swapTable puts another table in force, with policies that may have got another number.
func (e *Engine) swapTable(after *mapping.Table, policies *policy.Table, also func()) error {
	c := e.parts.Translator.Config()
	if c.Policy == policies {
		return e.parts.Translator.Edit(func(*mapping.Table) (*mapping.Table, error) {
			also()
			return after, nil
		})
	}
	c.Policy = policies
	also()
	return e.parts.Translator.Reload(c, after)
}

// followPolicies tells the fast path of policies that have got another number. Until it
// knows, it leaves who has that number to the daemon.
func (e *Engine) followPolicies(before *policy.Table) {
	if now := e.parts.Translator.Config(); now.Policy != before && e.parts.FastPath != nil {
		_ = e.parts.FastPath.Configure(now) // it has said so, and packets come here
	}
}

// repolice gives workloads other numbers where the policies that are planned select them
// otherwise. Who comes or changes meanwhile gets his when that is replayed.
func (p *Plan) repolice(base *mapping.Table) error {
	e := p.engine
	if p.policies().Same(e.Policy()) {
		next := *p.next
		next.Translator.Policy = e.Policy() // with the numbers that it has got
		p.next = &next
		return nil
	}
	if e.parts.Subjects == nil {
		return nil
	}
	seen := map[uint16]bool{}
	p.numbers, p.were = map[netip.Prefix]uint16{}, map[netip.Prefix]uint16{}
	for prefix, subject := range e.parts.Subjects() {
		n, err := p.policies().Number(subject)
		if err != nil {
			return err
		}
		seen[n] = true
		if have := base.Get(prefix); have != nil && have.Policy() != n {
			p.numbers[prefix], p.were[prefix] = n, have.Policy()
		}
	}
	numbers := make([]uint16, 0, len(seen))
	for n := range seen {
		numbers = append(numbers, n)
	}
	return p.extend(numbers...)
}

func (p *Plan) policies() *policy.Table { return p.next.Translator.Policy }

func (p *Plan) extend(numbers ...uint16) error {
	policies, err := p.policies().With(numbers...)
	if err != nil {
		return err
	}
	next := *p.next
	next.Translator.Policy = policies
	p.next = &next
	return nil
}

// renumber has a change be one under the policies that are planned.
func (p *Plan) renumber(c Change) (Change, error) {
	if c.New == nil {
		return c, nil
	}
	w, policies, err := held(p.policies(), c.New)
	if err != nil {
		return c, err
	}
	if policies != p.policies() {
		if err := p.extend(w.Policy); err != nil {
			return c, err
		}
	}
	c.New = w
	return c, nil
}

// hold gives a table's mappings the numbers that are planned.
func (p *Plan) hold(edit *mapping.Edit) {
	for prefix, n := range p.numbers {
		edit.Police(prefix, n)
	}
}

// catchUpPolicies is a table edited to p's, where workloads came since the plan began:
// they have the numbers of the policies in force. It takes over what numbers these have
// got meanwhile, where they stay.
func (p *Plan) catchUpPolicies(after *mapping.Table) (*mapping.Table, error) {
	e := p.engine
	if p.policies().Same(e.Policy()) {
		next := *p.next
		next.Translator.Policy = e.Policy()
		p.next = &next
		return after, nil
	}
	edit := after.Edit()
	for _, c := range e.since {
		c, err := p.renumber(c)
		if err != nil {
			return nil, err
		}
		if c.New != nil {
			edit.Police(c.New.IPv6, c.New.Policy)
		}
	}
	return edit.Table(), nil
}

// restored is a table in which workloads have the numbers that they had, and the policies
// with those of who came behind the swap, by others that were in force for a moment.
func (p *Plan) restored(table *mapping.Table, policies *policy.Table) (*mapping.Table, *policy.Table, error) {
	if policies.Same(p.policies()) {
		return table, policies, nil
	}
	edit := table.Edit()
	for prefix, n := range p.were {
		edit.Police(prefix, n)
	}
	for _, c := range p.engine.since {
		w, with, err := held(policies, c.New)
		if err != nil {
			return nil, nil, err
		}
		if policies = with; w != nil {
			edit.Police(w.IPv6, w.Policy)
		}
	}
	return edit.Table(), policies, nil
}

// relabel gives a workload that is called otherwise, or has other labels, the number that
// it then has; the caller holds mu.
func (e *Engine) relabel(table *mapping.Table, before, now *Workload) (*mapping.Table, error) {
	c, policies, err := e.held(Change{Old: before, New: now})
	if err != nil {
		return nil, err
	}
	*now = *c.New
	have := table.Get(now.IPv6)
	if e.base != nil {
		e.since = append(e.since, c)
	}
	if have == nil || have.Policy() == now.Policy {
		return table, nil
	}
	edit := table.Edit()
	edit.Police(now.IPv6, now.Policy)
	after, was := edit.Table(), e.Policy()
	if err := e.swapTable(after, policies, func() {}); err != nil {
		return nil, err
	}
	e.followPolicies(was)
	return after, nil
}

// configOf is a configuration with policies.
func configOf(c translator.Config, policies *policy.Table) translator.Config {
	c.Policy, c.Rules = policies, nil
	return c
}
