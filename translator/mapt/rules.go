package mapt

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// Most is how many rules there may be: the fast path holds a packet against one after the other.
const Most = 64

// Rules are those of a translator. nil are none. Every method may be called by any
// number of goroutines.
type Rules struct {
	given    []Rule
	compiled []rule
	by6, by4 order // the upper half of an IPv6 address, an IPv4 address
	counts   []counts
}

// Counts is what happened by a rule since it came into force.
type Counts struct {
	To4, To6 uint64 // packets that were translated, from and to its CEs
	Spoofed  uint64 // dropped, since no CE has their source
	Outside  uint64 // dropped, since they came from ports that their CE has not
}

type counts struct {
	shards  [shards]shard // one loop each, so that they do not wait for each other
	spoofed atomic.Uint64
	outside atomic.Uint64
}

const shards = 8

type shard struct {
	to4, to6 atomic.Uint64
	_        [48]byte
}

// New makes rules, in which no address and port has two CEs.
func New(all []Rule) (*Rules, error) {
	if len(all) == 0 {
		return nil, nil
	}
	if len(all) > Most {
		return nil, fmt.Errorf("%d rules are more than %d", len(all), Most)
	}
	r := &Rules{given: slices.Clone(all), counts: make([]counts, len(all))}
	for i, one := range all {
		if err := one.Validate(); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		for j, other := range all[:i] {
			if one.IPv6.Overlaps(other.IPv6) || one.IPv4.Overlaps(other.IPv4) {
				return nil, fmt.Errorf("rule %d: %v overlaps rule %d: %v", i, one, j, other)
			}
		}
		r.compiled = append(r.compiled, compile(one, i))
	}
	r.by6 = newOrder(r.compiled, func(c *rule) uint64 { return c.hi6 })
	r.by4 = newOrder(r.compiled, func(c *rule) uint64 { return uint64(c.v4) })
	return r, nil
}

// All are the rules as they were given.
func (r *Rules) All() []Rule {
	if r == nil {
		return nil
	}
	return slices.Clone(r.given)
}

// Same says that o has the same rules.
func (r *Rules) Same(o *Rules) bool {
	if r == nil || o == nil {
		return r == o
	}
	return slices.Equal(r.given, o.given)
}

// Counts is what has happened by the rule at an index.
func (r *Rules) Counts(index int) (c Counts) {
	n := &r.counts[index]
	for i := range n.shards {
		c.To4 += n.shards[i].to4.Load()
		c.To6 += n.shards[i].to6.Load()
	}
	c.Spoofed, c.Outside = n.spoofed.Load(), n.outside.Load()
	return c
}

// CE is a customer edge: what one has by a rule. The zero value is none.
type CE struct {
	rule *rule
	psid uint16
}

// IsZero says that there is no CE.
func (c CE) IsZero() bool { return c.rule == nil }

// Rule is the index of its rule.
func (c CE) Rule() int { return c.rule.index }

// PSID says which of an address's ports it has.
func (c CE) PSID() uint16 { return c.psid }

// Shared says that it has some of the ports of an address. None has no ports.
func (c CE) Shared() bool { return c.rule != nil && c.rule.k > 0 }

// Owns says that a port is one of its own.
func (c CE) Owns(port uint16) bool {
	psid, ok := c.rule.psidOf(port)
	return ok && psid == c.psid
}

// EchoRange is the first run of its ports: all are of one length.
func (c CE) EchoRange() ports.Range { return c.rule.first(c.psid) }

// IdentificationRange is the share of the IPv4 identifications that its fragments may
// use, as mapping.Entry has it for the same ports (RFC 7599 10.3).
func (c CE) IdentificationRange() (base, mask uint16) {
	mask = 1<<c.rule.m - 1
	if c.rule.a > 1 {
		mask |= (1<<(c.rule.a-1) - 1) << (17 - c.rule.a)
	}
	return c.rule.first(c.psid).First, mask
}

// Ports is all of its ports; an empty set where it has an address to itself.
func (c CE) Ports() ports.Set {
	if !c.Shared() {
		return ports.Set{}
	}
	set, err := ports.PSID(int(c.rule.a), int(c.rule.k), c.psid)
	if err != nil {
		panic(err) // the rule has been looked at
	}
	return set
}

// Describe says what a rule makes of an address, and of a port of it; empty where no rule
// has it.
func (r *Rules) Describe(a netip.Addr, port uint16) string {
	if a.Is6() {
		a4, ce, covered, ok := r.To4(mapping.Addr6From(a))
		switch {
		case ok:
			return fmt.Sprintf("a CE with %s, by the rule %v", ce.has(a4), r.given[ce.Rule()])
		case covered:
			return fmt.Sprintf("no CE's: the rule %v gives nobody this address", r.given[r.find6(mapping.Addr6From(a)).index])
		}
		return ""
	}
	a4 := mapping.Addr4From(a)
	found := r.find4(a4)
	if found == nil {
		return ""
	}
	a6, ce, ok := r.To6(a4, port)
	if !ok {
		return fmt.Sprintf("an address of CEs, whose port %d belongs to nobody, by the rule %v", port, r.given[found.index])
	}
	return fmt.Sprintf("the CE %v with %s, by the rule %v", a6.Addr(), ce.has(a4), r.given[found.index])
}

// Holder is the CE in whose prefix an IPv6 address lies, with its own address there, by which
// it has IPv4, and the first IPv4 address that it has.
func (r *Rules) Holder(a netip.Addr) (own netip.Addr, a4 uint32, ce CE, ok bool) {
	if r == nil || !a.Is6() {
		return own, 0, ce, false
	}
	at := mapping.Addr6From(a)
	found := r.find6(at)
	if found == nil {
		return own, 0, ce, false
	}
	a4, psid, _ := found.to4(at.Hi, 0)
	hi, lo := found.to6(a4, psid)
	return mapping.Addr6{Hi: hi, Lo: lo}.Addr(), a4, CE{found, psid}, true
}

// has is what a CE has of an address, in words.
func (c CE) has(a4 uint32) string {
	if !c.Shared() {
		return mapping.Addr4(a4).String()
	}
	runs := 0
	for range c.Ports().Runs() {
		runs++
	}
	first := c.EchoRange()
	if runs == 1 {
		return fmt.Sprintf("ports %v of %v (PSID %d)", first, mapping.Addr4(a4), c.psid)
	}
	return fmt.Sprintf("ports %v and %d more such runs of %v (PSID %d)", first, runs-1, mapping.Addr4(a4), c.psid)
}

// CEs is how many there may be by a rule.
func (r Rule) CEs() uint64 { return 1 << r.EABits }

// At is the rule that has an IPv4 address: shared, where a port must say whose it is.
func (r *Rules) At(a uint32) (shared, ok bool) {
	if found := r.find4(a); found != nil {
		return found.k > 0, true
	}
	return false, false
}

func (r *Rules) find4(a uint32) *rule {
	if r == nil {
		return nil
	}
	if c := &r.compiled[r.by4.last(uint64(a))]; a&c.mask4 == c.v4 {
		return c
	}
	return nil
}

func (r *Rules) find6(a mapping.Addr6) *rule {
	if r == nil {
		return nil
	}
	if c := &r.compiled[r.by6.last(a.Hi)]; a.Hi&c.mask6 == c.hi6 {
		return c
	}
	return nil
}

// To6 is the CE that has a port of an address that a rule has, and its address; ok is
// false where none has.
func (r *Rules) To6(a uint32, port uint16) (a6 mapping.Addr6, ce CE, ok bool) {
	found := r.find4(a)
	if found == nil {
		return a6, ce, false
	}
	psid, ok := found.psidOf(port)
	if !ok {
		return a6, ce, false
	}
	a6.Hi, a6.Lo = found.to6(a, psid)
	return a6, CE{found, psid}, true
}

// To4 is the CE that has an IPv6 address, and its IPv4 address; ok is false where none
// has. covered says that a rule has the address: it is no other workload's.
func (r *Rules) To4(a mapping.Addr6) (a4 uint32, ce CE, covered, ok bool) {
	found := r.find6(a)
	if found == nil {
		return 0, CE{}, false, false
	}
	a4, psid, ok := found.to4(a.Hi, a.Lo)
	if !ok {
		return 0, CE{}, true, false
	}
	return a4, CE{found, psid}, true, true
}

// Apart says that a has a rule, and that b is not of the same CE's prefix.
func (r *Rules) Apart(a, b mapping.Addr6) bool {
	found := r.find6(a)
	return found != nil && (a.Hi^b.Hi)>>found.eaAt != 0
}

// CountTo4 counts a packet from a CE, which a loop has translated.
func (r *Rules) CountTo4(ce CE, loop uint32) { r.counts[ce.rule.index].shards[loop%shards].to4.Add(1) }

// CountTo6 counts a packet to a CE.
func (r *Rules) CountTo6(ce CE, loop uint32) { r.counts[ce.rule.index].shards[loop%shards].to6.Add(1) }

// CountOutside counts a packet from a port that its CE has not.
func (r *Rules) CountOutside(ce CE) { r.counts[ce.rule.index].outside.Add(1) }

// CountSpoofed counts a packet from an address that a rule has and no CE.
func (r *Rules) CountSpoofed(a mapping.Addr6) {
	if found := r.find6(a); found != nil {
		r.counts[found.index].spoofed.Add(1)
	}
}

func number(a netip.Addr) uint32 { return mapping.Addr4From(a) }

func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
