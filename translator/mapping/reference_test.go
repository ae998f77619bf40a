package mapping

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/ports"
)

// naive is the slow reference: a list of mappings, searched from end to end,
// with addresses as net/netip has them and suffixes copied bit by bit.
type naive []Mapping

func (n naive) lookup6(a netip.Addr) (best Mapping, ok bool) {
	for _, m := range n {
		if m.IPv6.Contains(a) && (!ok || m.IPv6.Bits() > best.IPv6.Bits()) {
			best, ok = m, true
		}
	}
	return best, ok
}

// lookup4 gives all mappings of the longest prefix: several share an address.
func (n naive) lookup4(a netip.Addr) (best []Mapping) {
	for _, m := range n {
		switch {
		case !m.IPv4.Contains(a):
		case len(best) == 0 || m.IPv4.Bits() > best[0].IPv4.Bits():
			best = []Mapping{m}
		case m.IPv4.Bits() == best[0].IPv4.Bits():
			best = append(best, m)
		}
	}
	return best
}

var errRefused = errors.New("refused")

func (n naive) insert(m Mapping) (naive, error) {
	if 32-m.IPv4.Bits() > 128-m.IPv6.Bits() || !m.Ports.IsZero() && m.IPv4.Bits() != 32 {
		return n, errRefused
	}
	for _, o := range n {
		if o.IPv6 == m.IPv6 {
			return n, errRefused
		}
		if o.IPv4 == m.IPv4 && (o.Ports.IsZero() || m.Ports.IsZero() || common(o.Ports, m.Ports)) {
			return n, errRefused
		}
	}
	return append(slices.Clone(n), m), nil
}

func (n naive) remove(m Mapping) (naive, error) {
	i := slices.IndexFunc(n, m.Equal)
	if i < 0 {
		return n, errRefused
	}
	return slices.Delete(slices.Clone(n), i, i+1), nil
}

// common says whether a port is in both sets.
func common(a, b ports.Set) bool {
	for x := range a.Runs() {
		for y := range b.Runs() {
			if x.First <= y.Last && y.First <= x.Last {
				return true
			}
		}
	}
	return false
}

func owns(s ports.Set, port uint16) bool {
	for r := range s.Runs() {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

func bit(a []byte, i int) byte { return a[i/8] >> (7 - i%8) & 1 }

// copySuffix is RFC 7757 3.3: the bits of a behind the prefix from go behind
// the prefix to, as many as both have room for; the rest is zero.
func copySuffix(a netip.Addr, from, to netip.Prefix) netip.Addr {
	src, dst := a.AsSlice(), to.Addr().AsSlice()
	for i, j := from.Bits(), to.Bits(); i < len(src)*8 && j < len(dst)*8; i, j = i+1, j+1 {
		dst[j/8] |= bit(src, i) << (7 - j%8)
	}
	out, _ := netip.AddrFromSlice(dst)
	return out
}

// places are the octets of translation.md 1.1, written out.
var places = map[int][4]int{
	32: {4, 5, 6, 7}, 40: {5, 6, 7, 9}, 48: {6, 7, 9, 10},
	56: {7, 9, 10, 11}, 64: {9, 10, 11, 12}, 96: {12, 13, 14, 15},
}
