package config

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

// blocks gathers IPv4 addresses, as runs of them. What comes in order, as in a
// file that a program wrote, costs next to nothing.
type blocks []block

// block is a run of addresses, both ends included.
type block struct{ first, last uint32 }

func (b *blocks) add(p netip.Prefix) {
	first := mapping.Addr4From(p.Addr())
	n := block{first, first | uint32(1<<(32-p.Bits())-1)}
	if i := len(*b) - 1; i < 0 || !(*b)[i].join(n) {
		*b = append(*b, n)
	}
}

// join adds n to what it touches or overlaps from behind.
func (b *block) join(n block) bool {
	if n.first < b.first || uint64(n.first) > uint64(b.last)+1 {
		return false
	}
	b.last = max(b.last, n.last)
	return true
}

// prefixes are the fewest that hold the same addresses, in order.
func (b blocks) prefixes() (all []netip.Prefix) {
	sorted := slices.SortedFunc(slices.Values(b), func(a, b block) int { return cmp.Compare(a.first, b.first) })
	var joined blocks
	for _, n := range sorted {
		if i := len(joined) - 1; i < 0 || !joined[i].join(n) {
			joined = append(joined, n)
		}
	}
	for _, n := range joined {
		all = append(all, n.prefixes()...)
	}
	return all
}

// prefixes cuts b where alignment asks for it: always the longest block that
// may begin where the last one ended.
func (b block) prefixes() (all []netip.Prefix) {
	for at, end := uint64(b.first), uint64(b.last)+1; at < end; {
		size := min(bits.TrailingZeros64(at|1<<32), bits.Len64(end-at)-1)
		all = append(all, netip.PrefixFrom(mapping.Addr4(uint32(at)), 32-size))
		at += 1 << size
	}
	return all
}
