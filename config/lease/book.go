package lease

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease/prefixes"
	"github.com/natless/natless/translator/ports"
)

// book is the rules of a relay and the loans that have ended, found by their addresses. What its
// trees have is shared between states.
type book struct {
	rules prefixes.Tree[[]api.Rule]   // by their blocks: several of one address have each some of its ports
	hosts prefixes.Tree[netip.Prefix] // the blocks by the addresses of hosts that they lead to
	ended prefixes.Tree[[]Ended]      // of each block the last
	count int                         // of rules
	last  uint64                      // the highest number of a loan
	sum   api.RuleSum                 // of the rules
	past  api.RuleSum                 // of the loans that have ended
	by    prefixes.Edit
}

// bookOf is one of rules and of loans that have ended, which are as they should be.
func bookOf(rules []api.Rule, ended []Ended) *book {
	b := &book{by: prefixes.NewEdit()}
	for _, r := range rules {
		b.put(r)
	}
	for _, e := range ended {
		b.end(e)
	}
	b.by = 0
	return b
}

// changed is one that may be changed.
func (b *book) changed() *book {
	next := *b
	next.by = prefixes.NewEdit()
	return &next
}

// amid is a list with a rule besides, in the order of ports.
func amid(list []api.Rule, r api.Rule) []api.Rule {
	list = append(slices.Clip(list), r)
	slices.SortStableFunc(list, func(a, b api.Rule) int { return cmp.Compare(a.Ports.Min(), b.Ports.Min()) })
	return list
}

// put notes a rule in the place of none.
func (b *book) put(r api.Rule) {
	b.rules.Put(r.IPv4, amid(b.rules.Get(r.IPv4), r), b.by)
	b.hosts.Put(r.IPv6, r.IPv4, b.by)
	b.count++
	b.last = max(b.last, r.Lease)
	b.sum.Add(r)
}

// take takes a rule away.
func (b *book) take(r api.Rule) {
	left := slices.DeleteFunc(slices.Clone(b.rules.Get(r.IPv4)), func(o api.Rule) bool { return o.Ports.Equal(r.Ports) })
	if len(left) == 0 {
		b.rules.Drop(r.IPv4, b.by)
	} else {
		b.rules.Put(r.IPv4, left, b.by)
	}
	b.hosts.Drop(r.IPv6, b.by)
	b.count--
	b.sum.Remove(r)
}

// end notes that a loan has ended.
func (b *book) end(e Ended) { b.ended.Put(e.IPv4, b.lasts(b.ended.Get(e.IPv4), e), b.by) }

// lasts is a list with a loan that has ended, where it is the block's last.
func (b *book) lasts(list []Ended, e Ended) []Ended {
	b.last = max(b.last, e.Lease)
	asRule := func(e Ended) api.Rule { return api.Rule{IPv4: e.IPv4, Ports: e.Ports, Lease: e.Lease} }
	list = slices.Clone(list)
	i := slices.IndexFunc(list, func(o Ended) bool { return o.Ports.Equal(e.Ports) })
	switch {
	case i < 0:
		list = append(list, e)
	case list[i].Lease >= e.Lease:
		return list
	default:
		b.past.Remove(asRule(list[i]))
		list[i] = e
	}
	b.past.Add(asRule(e))
	slices.SortFunc(list, func(a, b Ended) int { return cmp.Compare(a.Ports.String(), b.Ports.String()) })
	return list
}

// of is the rule of a block.
func (b *book) of(ipv4 netip.Prefix, ports ports.Set) (api.Rule, bool) {
	for _, r := range b.rules.Get(ipv4) {
		if r.Ports.Equal(ports) {
			return r, true
		}
	}
	return api.Rule{}, false
}

// overlaps is the rule of which some addresses and ports are those of another.
func (b *book) overlaps(r api.Rule) (with api.Rule, yes bool) {
	for list := range b.rules.Near(r.IPv4) {
		for _, o := range list {
			if o.Ports.IsZero() || r.Ports.IsZero() || o.Ports.Overlaps(r.Ports) {
				return o, true
			}
		}
	}
	return with, false
}

// leadsTo is the block that leads to some of the same addresses of a host.
func (b *book) leadsTo(ipv6 netip.Prefix) (block netip.Prefix, yes bool) {
	for block := range b.hosts.Near(ipv6) {
		return block, true
	}
	return block, false
}

// anew says that no rule is of a loan that has ended, whole or in part.
func (b *book) anew(rules []api.Rule) error {
	for i, r := range rules {
		for list := range b.ended.Near(r.IPv4) {
			if err := later(i, r, list); err != nil {
				return err
			}
		}
	}
	return nil
}

// later says that a rule, some of whose addresses are those of loans that have ended, is of a
// later one.
func later(i int, r api.Rule, than []Ended) error {
	for _, e := range than {
		if r.Lease <= e.Lease && (r.Ports.IsZero() || e.Ports.IsZero() || r.Ports.Overlaps(e.Ports)) {
			return problem(api.CodeStale, at("rules", i, "lease"), "lease %d of %s has ended here: lease %d of %s is not taken again", e.Lease, e.IPv4,
				r.Lease, r.IPv4)
		}
	}
	return nil
}

// onDisk is a state of a relay as it is written.
type onDisk struct {
	// Boot is which boot of the relay the rules were confirmed in.
	Boot  string     `json:"boot,omitempty"`
	Epoch uint64     `json:"epoch"`
	Rules []api.Rule `json:"rules"`
	Ended []Ended    `json:"ended,omitempty"`
}

// MarshalJSON writes a state, in one order.
func (r Relay) MarshalJSON() ([]byte, error) {
	return json.Marshal(onDisk{r.Boot, r.Epoch, r.Rules(), r.Ended()})
}

// UnmarshalJSON reads one.
func (r *Relay) UnmarshalJSON(b []byte) error {
	var d onDisk
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	*r = NewRelay(d.Boot, d.Epoch, d.Rules, d.Ended)
	return nil
}
