//go:build linux

package daemon

import (
	"fmt"
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// policies are what workloads are held to, compiled once for as long as the
// configuration has the same.
type policies struct {
	ledger *policy.Ledger
	set    []policy.Policy
	table  *policy.Table // nil: there are none
}

func newPolicies() *policies { return &policies{ledger: policy.NewLedger()} }

// of are the policies of a configuration.
func (p *policies) of(c *config.Config) (*policy.Table, error) {
	set := c.PolicySet()
	if reflect.DeepEqual(set, p.set) {
		return p.table, nil
	}
	if len(set) == 0 {
		p.set, p.table = nil, nil
		return nil, nil
	}
	table, err := policy.Compile(set, p.ledger)
	if err != nil {
		return nil, err
	}
	p.set, p.table = set, table
	return table, nil
}

// subjectOf is what policies select an assignment by.
func subjectOf(a *registry.Assignment) policy.Workload {
	return policy.Workload{Name: a.Request.Name, Labels: a.Request.Labels}
}

// subjects are all whom policies may select.
func (k *keeper) subjects() iter.Seq2[netip.Prefix, policy.Workload] {
	return func(yield func(netip.Prefix, policy.Workload) bool) {
		for a := range k.Each() {
			if !yield(netip.PrefixFrom(a.Request.IPv6[0], 128), subjectOf(a)) {
				return
			}
		}
	}
}

// hold holds all who have an assignment in a table to policies, which it gives back with
// the numbers that they have.
func (k *keeper) hold(table *mapping.Table, held *policy.Table) (*mapping.Table, *policy.Table, error) {
	if held == nil {
		return table, nil, nil
	}
	edit, numbers := table.Edit(), map[uint16]bool{}
	for prefix, subject := range k.subjects() {
		n, err := held.Number(subject)
		if err != nil {
			return nil, nil, err
		}
		numbers[n] = true
		edit.Police(prefix, n)
	}
	all := make([]uint16, 0, len(numbers))
	for n := range numbers {
		all = append(all, n)
	}
	held, err := held.With(all...)
	return edit.Table(), held, err
}

// policies says which are in force, and what they say.
func (d *Daemon) policies(q api.PolicyQuestion) (api.Policies, error) {
	answer := api.Policies{Policies: []api.Policy{}}
	table := d.host.Policy()
	if table == nil {
		if q.Remote.IsValid() {
			answer.Decision = &api.PolicyDecision{Allow: true}
		}
		return answer, nil
	}
	counts := make([]int, len(table.Policies()))
	var of *registry.Assignment
	if q.Workload != (api.Key{}) {
		a, err := d.keeper.Get(q.Workload)
		if err != nil {
			return answer, err
		}
		of = a
	}
	for _, subject := range d.keeper.subjects() {
		for _, i := range table.Selecting(subject) {
			counts[i]++
		}
	}
	selects := func(int) bool { return true }
	if of != nil {
		some := table.Selecting(subjectOf(of))
		selects = func(i int) bool { return slices.Contains(some, i) }
	}
	for i := range table.Policies() {
		if selects(i) {
			answer.Policies = append(answer.Policies, policyOf(table, i, counts[i]))
		}
	}
	if q.Remote.IsValid() {
		decision, err := decide(table, of, q)
		if err != nil {
			return answer, err
		}
		answer.Decision = decision
	}
	return answer, nil
}

// policyOf is a policy in the API's words.
func policyOf(table *policy.Table, i, workloads int) api.Policy {
	p := &table.Policies()[i]
	out := api.Policy{Name: p.Name, Tier: p.Tier.String(), Priority: p.Priority, Audit: p.Audit, Answer: p.Answer.String(),
		Workload: p.Subject.Name, Namespace: p.Subject.Namespace, Labels: p.Subject.Labels, Workloads: workloads, Rules: []api.PolicyRule{}}
	for _, r := range table.All() {
		if r.Policy != p {
			continue
		}
		rule := api.PolicyRule{Rule: r.ID(), Direction: r.Direction.String(), Action: r.Action.String(), Networks: r.Networks,
			Denied: r.Denied.Load(), Audited: r.Audited.Load()}
		for _, one := range r.Protocols {
			rule.Protocols = append(rule.Protocols, one.String())
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

// decide is what policies say of what begins.
func decide(table *policy.Table, of *registry.Assignment, q api.PolicyQuestion) (*api.PolicyDecision, error) {
	n, err := table.Number(subjectOf(of))
	if err != nil || n == 0 {
		return &api.PolicyDecision{Allow: true}, err
	}
	if table, err = table.With(n); err != nil {
		return nil, err
	}
	p := policy.Packet{Remote: mapping.Addr4From(q.Remote), Proto: q.Proto, Out: q.Out, Asks: true, Client: q.Out}
	if q.Out {
		p.Far = q.Port
	} else {
		p.Local = q.Port
	}
	v := table.Judge(n, &p)
	d := &api.PolicyDecision{Allow: v.Allow}
	if r := table.Rule(v.Rule); r != nil {
		d.Rule = r.ID()
	}
	if r := table.Rule(v.Audited()); r != nil {
		d.Audited = r.ID()
	}
	return d, nil
}

// ruleCounts are the packets that were denied by rule, or would have been, of the rules
// that have denied the most.
func (d *Daemon) ruleCounts() (rules []metrics.Rule) {
	table := d.host.Policy()
	if table == nil {
		return nil
	}
	for _, r := range table.All() {
		if r.Action != policy.Deny {
			continue
		}
		id := r.Name
		if id == "" {
			id = fmt.Sprintf("[%d]", r.Index)
		}
		rules = append(rules, metrics.Rule{Policy: r.Policy.Name, Direction: r.Direction.String(), Rule: id,
			Denied: r.Denied.Load(), Audited: r.Audited.Load()})
	}
	return rules
}

// policed is how policies do: what they have denied, by which rule most; and those that
// select nobody, as one does whose subject is wrong.
func policed(table *policy.Table, workloads bool) api.Check {
	c := api.Check{Name: "policies", State: "ok"}
	var denied, audited uint64
	var most *policy.Rules
	for _, r := range table.All() {
		n := r.Denied.Load()
		denied, audited = denied+n, audited+r.Audited.Load()
		if n > 0 && (most == nil || n > most.Denied.Load()) {
			most = r
		}
	}
	c.Detail = fmt.Sprintf("%s in force, %s denied", words.Count(len(table.Policies()), "policy"), words.Count(int(denied), "packet"))
	if most != nil {
		c.Detail += ", most by " + most.ID()
	}
	if audited > 0 {
		c.Detail += fmt.Sprintf("; %s passed that those would deny that are only audited", words.Count(int(audited), "packet"))
	}
	if idle := table.Idle(); workloads && len(idle) > 0 {
		c.State = "warn"
		c.Detail += fmt.Sprintf("; no workload is selected by %s: is the subject right?", strings.Join(idle[:min(len(idle), few)], ", "))
		if more := len(idle) - few; more > 0 {
			c.Detail += fmt.Sprintf(" (and %d more)", more)
		}
	}
	return c
}

// few is how many policies a check names.
const few = 3
