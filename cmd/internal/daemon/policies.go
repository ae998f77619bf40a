//go:build linux

package daemon

import (
	"iter"
	"net/netip"
	"reflect"

	"github.com/natless/natless/config"
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
