//go:build linux

package metrics

import (
	"cmp"
	"slices"
)

var (
	policyDenied  = desc("policy_denied_packets_total", "Packets that a policy denied, by rule.", "policy", "direction", "rule")
	policyAudited = desc("policy_audited_packets_total", "Packets that passed and that a policy would have denied that is only audited, by rule.",
		"policy", "direction", "rule")
)

// Rule is what a rule of a policy has denied, or would have.
type Rule struct {
	Policy, Direction, Rule string
	Denied, Audited         uint64
}

// maxRules is how many rules have time series of their own: those that have denied the
// most. The others are counted together, as policy "other".
const maxRules = 1000

func (c *Collector) policies(s sink) {
	rules := c.Rules()
	if len(rules) == 0 {
		return
	}
	var rest Rule
	if len(rules) > maxRules {
		slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(b.Denied+b.Audited, a.Denied+a.Audited) })
		for _, r := range rules[maxRules:] {
			rest.Denied, rest.Audited = rest.Denied+r.Denied, rest.Audited+r.Audited
		}
		rules = rules[:maxRules]
	}
	for _, r := range rules {
		s.counter(policyDenied, r.Denied, r.Policy, r.Direction, r.Rule)
		s.counter(policyAudited, r.Audited, r.Policy, r.Direction, r.Rule)
	}
	if rest != (Rule{}) {
		s.counter(policyDenied, rest.Denied, "other", "", "")
		s.counter(policyAudited, rest.Audited, "other", "", "")
	}
}
