package mapping

import (
	"net/netip"
	"testing"
)

// TestWarm sees that what is brought into the cache is what lookups read: most entries
// stand in the line that is read first, and all others in the second.
func TestWarm(t *testing.T) {
	for _, list := range [][]Mapping{hosts(20_000), sharers(20_000)} {
		table, err := New(netip.MustParsePrefix("64:ff9b::/96"), list)
		if err != nil {
			t.Fatal(err)
		}
		if !table.Large() {
			t.Fatal("20,000 mappings are not large")
		}
		second := 0
		look := func(l *level, h uint64, e *Entry) {
			in := func(p *line) bool { return e == &p[0] || e == &p[1] }
			if p, _ := l.firstLine(h); !in(p) {
				second++
				if !in(l.lineOf(h, 0)) {
					t.Fatalf("%v stands in neither line", e.Mapping())
				}
			}
		}
		for _, m := range list {
			v6, v4 := Addr6From(m.IPv6.Addr()), Addr4From(m.IPv4.Addr())
			look(largest(table.levels6), hash6(v6), table.Lookup6(v6))
			look(largest(table.levels4), hash4(v4), table.Lookup4(v4))
		}
		// A quarter of them in the median of 250 seeds, and 58 of 100 with the worst.
		if second > 2*len(list)*3/4 {
			t.Errorf("%d of %d stand in their second line", second, 2*len(list))
		}
	}
}

// TestWarmAny warms what is in no table, in any table, and more than fits.
func TestWarmAny(t *testing.T) {
	for _, list := range [][]Mapping{nil, hosts(1), sharers(3), hosts(20_000), sharers(20_000)} {
		table, err := New(netip.MustParsePrefix("64:ff9b::/96"), list)
		if err != nil {
			t.Fatal(err)
		}
		var b Batch
		for i := range 3 * BatchLen {
			b.Add6(Addr6{uint64(i), uint64(i)})
			b.Add4(0x0a000000+uint32(i%3), uint16(i*777))
		}
		if allocs := testing.AllocsPerRun(100, func() { table.Warm(&b) }); allocs != 0 {
			t.Errorf("%d mappings: %v allocations", len(list), allocs)
		}
		b.Reset()
		table.Warm(&b)
	}
}
