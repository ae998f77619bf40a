package fleet

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
)

// set is what natlessd is to go by; news says that it does not yet, or that somebody waits
// for its acknowledgement. What is only missing is kept, unless follow says that it is right:
// a loan that has ended is seen to end first. lacks is how much that is.
func (a *RelayAgent) set(follow bool) (set api.RuleSet, lacks int, news bool) {
	set.Epoch = max(1, a.epoch)
	there, lengths := map[netip.Prefix]bool{}, map[int]bool{}
	same := 0
	a.left = 0
	for _, o := range a.view {
		if o.state == Reserved {
			continue
		}
		if news = news || o.state != Lent && o.at > a.is.Epoch; !inside(a.is.IPv4, o.rule.IPv4) {
			continue
		}
		there[o.rule.IPv4], lengths[o.rule.IPv4.Bits()] = true, true
		switch {
		case o.state == Ended || !o.rule.IPv6.IsValid():
			set.Fenced = append(set.Fenced, o.rule.IPv4)
		case a.leaves(o.rule):
			a.left++
			set.Fenced = append(set.Fenced, o.rule.IPv4)
		default:
			set.Rules = append(set.Rules, o.rule)
			if a.rules.Get(o.rule.IPv4).Lease == o.rule.Lease {
				same++
			}
		}
	}
	missing, taken := a.missing(there, lengths)
	if a.is.State == api.RelayUnconfirmed { // none is in force, and nobody waits for who was off
		for _, r := range missing {
			taken = append(taken, r.IPv4)
		}
		missing = nil
	}
	set.Fenced = append(set.Fenced, taken...)
	if lacks = len(missing); !follow {
		set.Rules, same = append(set.Rules, missing...), same+lacks
	}
	return set, lacks, news || same != len(set.Rules) || same != a.rules.Len() || a.is.State == api.RelayUnconfirmed || set.Epoch < a.is.Epoch
}

// missing are the rules of blocks that are not there, and taken the blocks of which somebody
// else has some by now, or that this relay does not serve any more.
func (a *RelayAgent) missing(there map[netip.Prefix]bool, lengths map[int]bool) (all []api.Rule, taken []netip.Prefix) {
	wider, longest := map[int]map[netip.Prefix]bool{}, 0 // what the blocks that are there lie in, by length
	for bits := range lengths {
		longest = max(longest, bits)
	}
	parts := func(p netip.Prefix) bool {
		if p.Bits() >= longest { // as where all blocks are of one length: there are none
			return false
		}
		if wider[p.Bits()] == nil {
			wider[p.Bits()] = map[netip.Prefix]bool{}
			for o := range there {
				if o.Bits() > p.Bits() {
					wider[p.Bits()][netip.PrefixFrom(o.Addr(), p.Bits()).Masked()] = true
				}
			}
		}
		return wider[p.Bits()][p]
	}
	for rule := range a.rules.All() {
		p := rule.IPv4
		if there[p] {
			continue
		}
		gone := parts(p) || !inside(a.is.IPv4, p)
		for bits := range lengths {
			gone = gone || bits < p.Bits() && there[netip.PrefixFrom(p.Addr(), bits).Masked()]
		}
		if gone {
			taken = append(taken, p)
		} else {
			all = append(all, rule)
		}
	}
	return all, taken
}

func inside(all []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(all, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) })
}
