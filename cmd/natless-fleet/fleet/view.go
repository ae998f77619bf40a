package fleet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/natless/natless/translator/special"
)

// view is everything that is there, as it was at one moment or later.
type view struct {
	pools    []Pool
	hosts    []Host
	relays   []Relay
	blocks   []Block
	revision uint64 // of a moment before any of it was read

	byHost map[string]*Host
	lent   map[string]*Block // by prefix
	ofHost map[string][]*Block
	last   uint64 // the highest lease that anybody speaks of

	fabric map[string]netip.Prefix // of a host, where it is its own
	wrong  map[string]string       // why a host is lent nothing for its fabric's sake
}

// look reads everything. Blocks come last: what was lent meanwhile is seen.
func look(ctx context.Context, s Store) (*view, error) {
	v := new(view)
	var err error
	if v.pools, _, err = List[PoolSpec, PoolStatus](ctx, s, Pools); err != nil {
		return nil, err
	}
	if v.hosts, _, err = List[HostSpec, HostStatus](ctx, s, Hosts); err != nil {
		return nil, err
	}
	if v.relays, _, err = List[RelaySpec, RelayStatus](ctx, s, Relays); err != nil {
		return nil, err
	}
	if v.blocks, v.revision, err = List[BlockSpec, BlockStatus](ctx, s, Blocks); err != nil {
		return nil, err
	}
	v.byHost, v.lent = make(map[string]*Host, len(v.hosts)), make(map[string]*Block, len(v.blocks))
	v.ofHost = make(map[string][]*Block, len(v.hosts))
	for i := range v.hosts {
		v.byHost[v.hosts[i].Name] = &v.hosts[i]
		v.noteLeases(&v.hosts[i])
	}
	for i := range v.blocks {
		b := &v.blocks[i]
		v.lent[b.Spec.IPv4] = b
		v.ofHost[b.Spec.Host] = append(v.ofHost[b.Spec.Host], b)
		v.last = max(v.last, b.Spec.Lease, b.Spec.Rule)
	}
	for _, r := range v.relays {
		if r.Status.Lease < plausible {
			v.last = max(v.last, r.Status.Lease)
		}
	}
	v.sortFabrics()
	for _, h := range v.hosts {
		if h.Broken != "" {
			v.wrong[h.Name] = "its object is not understood: " + h.Broken
		}
	}
	return v, nil
}

// plausible bounds the numbers of loans, and the epochs, that hosts are believed: no store gets there, and
// JSON's numbers are exact so far.
const plausible = 1 << 52

func (v *view) noteLeases(h *Host) {
	note := func(lease uint64) {
		if lease < plausible {
			v.last = max(v.last, lease)
		}
	}
	for _, b := range h.Spec.Blocks {
		note(b.Lease)
	}
	for _, b := range h.Status.Held {
		note(b.Lease)
	}
	for _, b := range h.Status.Returned {
		note(b.Lease)
	}
}

// credible reports whether a host can hold what it says that it holds: a block of a pool
// as it is cut now. Of more than that nobody is kept by a host's word alone.
func (v *view) credible(held Held) bool {
	pool := v.pool(held.Pool)
	return pool != nil && pool.Spec.has(held.IPv4) && held.Lease > 0 && held.Lease < plausible
}

func (v *view) pool(name string) *Pool {
	for i := range v.pools {
		if v.pools[i].Name == name {
			return &v.pools[i]
		}
	}
	return nil
}

// nextLease is a number higher than that of any loan that has ended or goes on: one that
// this view does not have any more began before it was read.
func (v *view) nextLease() uint64 { return max(v.revision, v.last) + 1 }

// claims are all prefixes that somebody has, or may have: what is lent or reserved, and
// what hosts say that they hold. What was taken from a host that an operator has fenced
// is not.
func (v *view) claims() *claims {
	c := new(claims)
	for _, b := range v.blocks {
		c.add(b.Spec.IPv4)
	}
	for _, h := range v.hosts {
		if h.Spec.Fenced {
			continue
		}
		for _, b := range h.Spec.Blocks {
			if b.State != HostRevoked || !h.Status.returned(b) {
				c.add(b.IPv4)
			}
		}
		for _, b := range h.Status.Held {
			if v.credible(b) {
				c.add(b.IPv4)
			}
		}
		for _, b := range h.Spec.Revoke { // it rests until the operator takes the word back
			c.add(b)
		}
	}
	return c
}

// claims finds what overlaps a prefix.
type claims struct {
	all    map[netip.Prefix]int // how often
	length [33]int              // how many there are of each
}

func (c *claims) add(prefix string) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil || !p.Addr().Is4() {
		return // nobody can have it
	}
	if c.all == nil {
		c.all = map[netip.Prefix]int{}
	}
	p = p.Masked()
	if c.all[p]++; c.all[p] == 1 {
		c.length[p.Bits()]++
	}
}

// overlap reports whether somebody has any of p; other does not count p itself once.
func (c *claims) overlap(p netip.Prefix, itself bool) bool {
	if n := c.all[p]; n > 1 || n == 1 && !itself {
		return true
	}
	for bits := range p.Bits() {
		if c.length[bits] > 0 && c.all[netip.PrefixFrom(p.Addr(), bits).Masked()] > 0 {
			return true
		}
	}
	for bits := p.Bits() + 1; bits <= 32; bits++ {
		if c.length[bits] > 0 && c.within(p, bits) {
			return true
		}
	}
	return false
}

// within looks for one of a length that is in p.
func (c *claims) within(p netip.Prefix, bits int) bool {
	if n := bits - p.Bits(); n < 12 && 1<<n < len(c.all) {
		for a, last := p.Addr(), 0; last < 1<<n; last++ {
			if c.all[netip.PrefixFrom(a, bits)] > 0 {
				return true
			}
			a = after(netip.PrefixFrom(a, bits))
		}
		return false
	}
	for o := range c.all {
		if o.Bits() == bits && p.Contains(o.Addr()) {
			return true
		}
	}
	return false
}

// after is the first address behind a prefix; behind the last it is 0.0.0.0.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += uint32(1) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// prefixes are those of a pool; reason is why nothing is lent of it.
func (p *PoolSpec) prefixes() (all []netip.Prefix, reason string) {
	if p.BlockLength < 16 || p.BlockLength > 32 {
		return nil, "blockLength must be 16 to 32"
	}
	for _, text := range p.IPv4 {
		one, err := netip.ParsePrefix(text)
		switch {
		case err != nil || !one.Addr().Is4() || one != one.Masked():
			return nil, text + " is no IPv4 prefix without bits beyond its length"
		case one.Bits() > p.BlockLength:
			return nil, text + " is smaller than a block"
		case p.BlockLength-one.Bits() > 16:
			return nil, text + " has more than 65536 blocks"
		}
		if e, never := special.Overlaps(one); never { // a host that is lent one takes no block any more
			return nil, fmt.Sprintf("%s has addresses that no host may have (%s)", text, e.Name)
		}
		all = append(all, one)
	}
	return all, ""
}

// Wrong is why nobody should write a pool like that, or empty: that of what overlaps nothing is
// lent twice, but it is counted twice.
func (p *PoolSpec) Wrong() string {
	all, reason := p.prefixes()
	for i, one := range all {
		for _, o := range all[:i] {
			if reason == "" && o.Overlaps(one) {
				reason = fmt.Sprintf("%v and %v overlap", o, one)
			}
		}
	}
	return reason
}

// has reports whether a block is one of the pool's, as it is now.
func (p *PoolSpec) has(block string) bool {
	b, err := netip.ParsePrefix(block)
	if err != nil {
		return false
	}
	all, reason := p.prefixes()
	return reason == "" && b == b.Masked() && b.String() == block && b.Bits() == p.BlockLength && slices.ContainsFunc(all, func(o netip.Prefix) bool { return o.Overlaps(b) })
}

// NameOf is what the block of a prefix is called: 198-51-100-8-32.
func NameOf(prefix string) string { return strings.NewReplacer(".", "-", "/", "-").Replace(prefix) }

// entry is what a host is told of a block; nil: nothing.
func (h *HostSpec) entry(prefix string) *HostBlock {
	for i := range h.Blocks {
		if h.Blocks[i].IPv4 == prefix {
			return &h.Blocks[i]
		}
	}
	return nil
}

// returned reports whether the host has said that it does not have a block by this loan,
// and never will.
func (h *HostStatus) returned(b HostBlock) bool {
	return slices.ContainsFunc(h.Returned, func(r Returned) bool { return r.IPv4 == b.IPv4 && r.Lease >= b.Lease })
}

// holds is what the host says that it holds of a block; nil: it does not.
func (h *HostStatus) holds(prefix string) *Held {
	for i := range h.Held {
		if h.Held[i].IPv4 == prefix {
			return &h.Held[i]
		}
	}
	return nil
}
