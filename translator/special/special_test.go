package special

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// edges are the first and last address of p, and those beside them.
func edges(p netip.Prefix) (list []netip.Addr) {
	first, last := p.Addr(), p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	for _, a := range []netip.Addr{first.Prev(), first, end, end.Next()} {
		if a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

// compare holds the fast functions against a search of the table.
func compare(t *testing.T, a netip.Addr) {
	t.Helper()
	e, listed := Lookup(a)
	global := !listed || e.Global && !e.Never
	if Never(a) != e.Never {
		t.Errorf("Never(%v) = %v, but its entry is %+v", a, Never(a), e)
	}
	if a.Is6() {
		b := a.As16()
		if got := Never6(binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])); got != e.Never {
			t.Errorf("Never6(%v) = %v, but its entry is %+v", a, got, e)
		}
		return
	}
	b := a.As4()
	n := binary.BigEndian.Uint32(b[:])
	if got := Never4(n); got != e.Never {
		t.Errorf("Never4(%v) = %v, but its entry is %+v", a, got, e)
	}
	if got := Global4(n); got != global {
		t.Errorf("Global4(%v) = %v, but its entry is %+v", a, got, e)
	}
	if got, want := Many4(n), a.IsMulticast() || a == netip.MustParseAddr("255.255.255.255"); got != want {
		t.Errorf("Many4(%v) = %v", a, got)
	}
}

// TestFast walks every entry of the table, its edges and what lies beside them,
// and then addresses of everywhere.
func TestFast(t *testing.T) {
	t.Parallel()
	for _, e := range Registry {
		for _, a := range edges(e.Prefix) {
			compare(t, a)
		}
	}
	r := rand.New(rand.NewPCG(6890, 6890))
	for range 200_000 {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], r.Uint64())
		compare(t, netip.AddrFrom4([4]byte(b[:4])))
		if r.IntN(2) == 0 {
			clear(b[:8]) // where the shortest addresses are
		}
		binary.BigEndian.PutUint64(b[8:], r.Uint64()>>r.IntN(64))
		compare(t, netip.AddrFrom16(b))
	}
}

// TestRegistry: entries are well formed, none is there twice, and what is never
// translated is not reachable either, by any entry inside.
func TestRegistry(t *testing.T) {
	t.Parallel()
	seen := map[netip.Prefix]bool{}
	for _, e := range Registry {
		if e.Prefix != e.Prefix.Masked() || e.Name == "" || e.RFC == "" || seen[e.Prefix] || e.Never && e.Global {
			t.Errorf("%+v: not masked, without a name, there twice, or contradicts itself", e)
		}
		seen[e.Prefix] = true
		for _, inner := range Registry {
			if e.Never && e.Prefix.Overlaps(inner.Prefix) && inner.Prefix.Bits() >= e.Prefix.Bits() && !inner.Never {
				t.Errorf("%v lies in %v, which is never translated", inner.Prefix, e.Prefix)
			}
		}
	}
	for _, want := range []struct {
		prefix           string
		within, overlaps bool
	}{
		{"127.0.0.0/16", true, true}, {"126.0.0.0/7", false, true}, {"126.0.0.0/8", false, false},
		{"::ffff:192.0.2.0/120", true, true}, {"::/64", false, true}, {"::2/128", false, false}, {"2001:db8::/32", false, false},
	} {
		p := netip.MustParsePrefix(want.prefix)
		_, within := Within(p)
		_, overlaps := Overlaps(p)
		if within != want.within || overlaps != want.overlaps {
			t.Errorf("%v: within %v, overlaps %v", p, within, overlaps)
		}
	}
}
