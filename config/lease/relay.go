package lease

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease/prefixes"
	"github.com/natless/natless/translator/ports"
)

// MostRules is how many rules a relay may have.
const MostRules = 1 << 16

// Relay is what a relay knows of who has which block. It outlives everything but the
// relay's disk, and nobody changes one.
type Relay struct {
	Boot  string // which boot of the relay the rules were confirmed in
	Epoch uint64
	book  *book // nil: an empty one
}

// NewRelay is a state of rules and of loans that have ended, of which nobody looks whether
// they go together.
func NewRelay(boot string, epoch uint64, rules []api.Rule, ended []Ended) Relay {
	return Relay{boot, epoch, bookOf(rules, ended)}
}

// Ended is the last loan of a block that a relay has seen end.
type Ended = api.Loan

var empty = new(book)

func (r Relay) entries() *book {
	if r.book == nil {
		return empty
	}
	return r.book
}

// Rules are all, by their addresses.
func (r Relay) Rules() []api.Rule {
	all := make([]api.Rule, 0, r.Count())
	for list := range r.entries().rules.All() {
		all = append(all, list...)
	}
	return all
}

// Ended are the last loans of blocks that have ended, by their addresses.
func (r Relay) Ended() (all []Ended) {
	for list := range r.entries().ended.All() {
		all = append(all, list...)
	}
	return all
}

// Rule is the rule of a block: of these ports of these addresses, or, the ports zero, of all.
func (r Relay) Rule(ipv4 netip.Prefix, ports ports.Set) (api.Rule, bool) {
	return r.entries().of(ipv4, ports)
}

// Count is how many rules there are.
func (r Relay) Count() int { return r.entries().count }

// Digest is that of the rules.
func (r Relay) Digest() string { return r.entries().sum.String() }

// RelayAsked is what a set of rules is judged by, besides the state.
type RelayAsked struct {
	Boot string
	// Check says why a rule cannot be one here, with the field that is wrong; nil: any can.
	Check func(api.Rule) (field string, err error)
}

// Confirmed says that somebody has said, since the relay was booted, that the rules hold.
func (r Relay) Confirmed(boot string) bool { return r.Boot == boot && r.Epoch > 0 }

// InForce are the rules that packets may go by.
func (r Relay) InForce(boot string) []api.Rule {
	if !r.Confirmed(boot) {
		return nil
	}
	return r.Rules()
}

// LastLease is the highest number of a loan that the relay knows of.
func (r Relay) LastLease() uint64 { return r.entries().last }

// Same reports whether two states have the same rules, of the same age.
func (r Relay) Same(o Relay) bool {
	a, b := r.entries(), o.entries()
	return r.Boot == o.Boot && r.Epoch == o.Epoch && a.count == b.count && a.sum == b.sum && a.past == b.past
}

// lent names a block: its addresses and ports.
type lent struct {
	ipv4  netip.Prefix
	ports string
}

func lentBy(r api.Rule) lent { return lent{r.IPv4, r.Ports.String()} }

// Apply is the state after a set was told, and how many rules go with it. An error is an
// *api.Problem, and then nothing has changed.
func (r Relay) Apply(set api.RuleSet, by RelayAsked) (next Relay, gone int, err error) {
	if set.Epoch < r.Epoch && !set.Rewind {
		return r, 0, older(set.Epoch, r.Epoch)
	}
	if err := r.check(set, by); err != nil {
		return r, 0, err
	}
	ended, sudden := r.ended(set)
	next = NewRelay(by.Boot, set.Epoch, set.Rules, slices.Concat(r.Ended(), ended))
	if err := next.book.anew(set.Rules); err != nil {
		return r, 0, err
	}
	if most := max(1, r.Count()/4); sudden > most && !set.Shrink {
		return r, 0, problem(api.CodeShrinks, "rules", "%d of %d rules are missing at once, and no more than %d are believed to be "+
			"without a word of an operator: nothing was changed", sudden, r.Count(), most)
	}
	return next, len(ended), nil
}

func older(epoch, than uint64) error {
	return problem(api.CodeStale, "epoch", "%d is older than %d, which this relay goes by", epoch, than)
}

func tooMany(rules int) error {
	return problem(api.CodeInvalid, "rules", "%d rules are more than %d: lend larger blocks", rules, MostRules)
}

func inOrder(a, b api.Rule) int {
	return cmp.Or(a.IPv4.Addr().Compare(b.IPv4.Addr()), cmp.Compare(a.IPv4.Bits(), b.IPv4.Bits()),
		cmp.Compare(a.Ports.Min(), b.Ports.Min()))
}

// check says what is wrong with a set by itself, and by what this relay goes by.
func (r Relay) check(set api.RuleSet, by RelayAsked) error {
	if n := len(set.Rules); n > MostRules {
		return tooMany(n)
	}
	if set.Epoch == 0 {
		return problem(api.CodeInvalid, "epoch", "is missing, or 0")
	}
	if err := checkNamed("fenced", set.Fenced); err != nil {
		return err
	}
	for i, one := range set.Rules {
		if err := checkRule(i, one, by); err != nil {
			return err
		}
	}
	if err := overlapping(set.Rules); err != nil {
		return err
	}
	return r.fit(set)
}

// names4 reports whether a prefix can name a block.
func names4(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is4() }

// checkNamed says which of the blocks that a list names can be none.
func checkNamed(list string, all []netip.Prefix) error {
	for i, p := range all {
		if !names4(p) {
			return problem(api.CodeInvalid, list+"["+strconv.Itoa(i)+"]", "%s is no IPv4 prefix", p)
		}
	}
	return nil
}

// checkRule says what is wrong with a rule by itself.
func checkRule(i int, one api.Rule, by RelayAsked) error {
	field, why := "", ""
	switch {
	case !one.IPv4.IsValid() || !one.IPv4.Addr().Is4() || one.IPv4 != one.IPv4.Masked():
		field, why = "ipv4", "is no IPv4 prefix without bits beyond its length"
	case !one.IPv6.IsValid() || !one.IPv6.Addr().Is6() || one.IPv6 != one.IPv6.Masked():
		field, why = "ipv6", "is no IPv6 prefix without bits beyond its length"
	case one.IPv4.IsSingleIP() != one.IPv6.IsSingleIP() || 32-one.IPv4.Bits() > 128-one.IPv6.Bits():
		field, why = "ipv6", "has not an address for each of the block (RFC 7757 3.3)"
	case !one.Ports.IsZero() && !one.IPv4.IsSingleIP():
		field, why = "ports", "are of one address, and this is a prefix"
	case one.Lease == 0:
		field, why = "lease", "is missing, or 0"
	}
	if field != "" {
		return problem(api.CodeInvalid, at("rules", i, field), "%s → %s, lease %d: %s", one.IPv4, one.IPv6, one.Lease, why)
	}
	if by.Check != nil {
		if field, err := by.Check(one); err != nil {
			return problem(api.CodeInvalid, at("rules", i, field), "%v", err)
		}
	}
	return nil
}

// at is a field of one of a list.
func at(list string, i int, field string) string { return list + "[" + strconv.Itoa(i) + "]." + field }

// overlapping says which two rules are about the same addresses, or lead to the same host
// address.
func overlapping(rules []api.Rule) error {
	sorted := slices.SortedFunc(slices.Values(rules), inOrder)
	var widest api.Rule
	var taken ports.Builder
	for _, one := range sorted {
		if !widest.IPv4.IsValid() || !widest.IPv4.Overlaps(one.IPv4) {
			widest, taken = one, ports.Builder{}
			taken.AddSet(one.Ports)
			continue
		}
		if one.Ports.IsZero() || widest.Ports.IsZero() || taken.Overlaps(one.Ports) {
			return overlap(one, widest)
		}
		taken.AddSet(one.Ports)
	}
	return together(sorted)
}

func overlap(one, with api.Rule) error {
	return problem(api.CodeInvalid, "rules", "%s overlaps %s, which is in the set too", wordsOf(one), wordsOf(with))
}

func wordsOf(r api.Rule) string {
	if r.Ports.IsZero() {
		return r.IPv4.String()
	}
	return r.IPv4.String() + " ports " + r.Ports.String()
}

// together says which two rules lead to the same address of a host; it sorts them anew.
func together(rules []api.Rule) error {
	slices.SortFunc(rules, func(a, b api.Rule) int {
		return cmp.Or(a.IPv6.Addr().Compare(b.IPv6.Addr()), cmp.Compare(a.IPv6.Bits(), b.IPv6.Bits()))
	})
	for i, one := range rules[min(1, len(rules)):] {
		if before := rules[i]; before.IPv6.Overlaps(one.IPv6) { // the wider one comes first
			return problem(api.CodeInvalid, "rules", "%s and %s both lead to %s", before.IPv4, one.IPv4, one.IPv6)
		}
	}
	return nil
}

// fit says whether the rules can be by the loans that this relay knows.
func (r Relay) fit(set api.RuleSet) error {
	for i, one := range set.Rules {
		have, held := r.entries().of(one.IPv4, one.Ports)
		if err := fits(i, one, have, held); err != nil {
			return err
		}
	}
	return nil
}

// fits says whether a rule can be by that of the same block, if one is held.
func fits(i int, one, have api.Rule, held bool) error {
	switch {
	case !held:
	case one.Lease < have.Lease:
		return problem(api.CodeStale, at("rules", i, "lease"), "%d of %s is older than %d, which this relay goes by", one.Lease, one.IPv4, have.Lease)
	case one.Lease == have.Lease && one.IPv6 != have.IPv6:
		return problem(api.CodeInvalid, at("rules", i, "ipv6"), "%s leads to %s by lease %d: to %s it can lead by a later one", one.IPv4, have.IPv6,
			have.Lease, one.IPv6)
	}
	return nil
}

// ended are the loans that end with a set, and how many of them nobody has said are to.
func (r Relay) ended(set api.RuleSet) (all []Ended, sudden int) {
	there := make(map[lent]uint64, len(set.Rules))
	for _, one := range set.Rules {
		there[lentBy(one)] = one.Lease
	}
	var fenced prefixes.Tree[netip.Prefix]
	by := prefixes.NewEdit()
	for _, p := range set.Fenced {
		fenced.Put(p.Masked(), p.Masked(), by)
	}
	for _, one := range r.Rules() {
		lease, stays := there[lentBy(one)]
		if stays && lease == one.Lease {
			continue
		}
		all = append(all, Ended{IPv4: one.IPv4, Ports: one.Ports, Lease: one.Lease})
		if !stays && !covers(&fenced, one.IPv4) {
			sudden++
		}
	}
	return all, sudden
}

// covers says that one of a tree's prefixes, each its own value, has all addresses of another.
func covers(tree *prefixes.Tree[netip.Prefix], p netip.Prefix) bool {
	for widest := range tree.Near(p) {
		return widest.Bits() <= p.Bits()
	}
	return false
}
