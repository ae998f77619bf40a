package route

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// nftContent is what a set of addresses of ours holds: ranges, one a line, in
// order. It is apart from its table, so that other addresses leave the rules and
// their counters alone. Adding it replaces what the set held, in one transaction.
type nftContent struct{ family, set, text string }

func (c nftContent) String() string {
	return "nft " + c.family + " set " + c.set + "\n" + indent(c.text)
}
func (nftContent) rank() int { return 4 } // behind its table, by its text

// addrRange is all addresses from first to last.
type addrRange struct{ first, last netip.Addr }

func (r addrRange) String() string {
	if r.first == r.last {
		return r.first.String()
	}
	return r.first.String() + "-" + r.last.String()
}

// ranges sorts prefixes of one family and joins what touches, as the kernel's
// sets of intervals want it.
func ranges(prefixes []netip.Prefix) (out []addrRange) {
	for _, p := range outermost(slices.Clone(prefixes)) {
		r := addrRange{p.Addr(), lastOf(p)}
		if n := len(out); n > 0 && out[n-1].last.Next() == r.first {
			out[n-1].last = r.last
			continue
		}
		out = append(out, r)
	}
	return out
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func rangesText(all []addrRange) string {
	lines := make([]string, len(all))
	for i, r := range all {
		lines[i] = r.String()
	}
	return strings.Join(lines, "\n")
}

// intervals are the elements of a set of intervals: each begins at its first
// address, and ends before the one that follows its last.
func intervals(all []addrRange) (elements []nftables.SetElement) {
	for _, r := range all {
		elements = append(elements, nftables.SetElement{Key: r.first.AsSlice()})
		if end := r.last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// fromIntervals is the opposite.
func fromIntervals(elements []nftables.SetElement) (out []addrRange) {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd { // what ends here ends before what begins here
			return -1
		}
		return 1
	})
	open := false
	for _, e := range elements {
		a, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok:
		case !e.IntervalEnd:
			out = append(out, addrRange{a, lastOf(netip.PrefixFrom(a, 0))})
			open = true
		case open: // the kernel shows an end at 0 before the first
			out[len(out)-1].last = a.Prev()
			open = false
		}
	}
	return out
}

// addressSet is a set of addresses in a table's definition.
func addressSet(name string, kind nftables.SetDatatype, prefixes []netip.Prefix) nftSet {
	all := ranges(prefixes)
	return nftSet{
		Set:     nftables.Set{Name: name, KeyType: kind, Interval: true},
		content: rangesText(all), elements: intervals(all),
	}
}

// heads are the first bits that the addresses of ranges have: 16 of IPv4, 32 of
// IPv6. Most packets of others are told by them, which costs a third of looking
// among ranges.
func heads(all []addrRange) (out []uint32) {
	for _, r := range all {
		first, last := head(r.first), head(r.last)
		for h := uint64(first); h <= uint64(last); h += step(r.first) {
			out = append(out, uint32(h))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func head(a netip.Addr) uint32 {
	h := binary.BigEndian.Uint32(a.AsSlice())
	if a.Is4() {
		h &^= 0xffff
	}
	return h
}

func step(a netip.Addr) uint64 {
	if a.Is4() {
		return 1 << 16
	}
	return 1
}

func headElements(all []addrRange) (elements []nftables.SetElement) {
	for _, h := range heads(all) {
		elements = append(elements, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, h)})
	}
	return elements
}

// headSets are those of heads, by the set that has the ranges.
var headSets = map[string]string{ours4Set: heads4Set, ours6Set: heads6Set}

func headSet(of nftSet) nftSet {
	all, _ := nftContent{text: of.content}.parse()
	return nftSet{Set: nftables.Set{Name: headSets[of.Name], KeyType: nftables.TypeIPAddr}, elements: headElements(all)}
}

// contents are the sets of a table that change apart from it.
func (d nftDef) contents() (all []object) {
	for _, s := range d.sets {
		if s.Interval {
			all = append(all, nftContent{familyName(d.family), s.Name, s.content})
		}
	}
	return all
}

// parse gives the ranges that a content's text says.
func (c nftContent) parse() (out []addrRange, err error) {
	for _, line := range strings.Fields(c.text) {
		first, last, isRange := strings.Cut(line, "-")
		if !isRange {
			last = first
		}
		a, err1 := netip.ParseAddr(first)
		b, err2 := netip.ParseAddr(last)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("range of addresses %q", line)
		}
		out = append(out, addrRange{a, b})
	}
	return out, nil
}
