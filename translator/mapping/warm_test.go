package mapping

import (
	"net/netip"
	"testing"
)

// TestWarm sees that what is brought into the cache is what lookups read, but
// for the few whose hashes have eight bits in common with another's.
func TestWarm(t *testing.T) {
	for _, list := range [][]Mapping{hosts(20_000), sharers(20_000)} {
		table, err := New(netip.MustParsePrefix("64:ff9b::/96"), list)
		if err != nil {
			t.Fatal(err)
		}
		if !table.Large() {
			t.Fatal("20,000 mappings are not large")
		}
		wrong := 0
		for _, m := range list {
			v6, v4 := Addr6From(m.IPv6.Addr()), Addr4From(m.IPv4.Addr())
			if largest(table.levels6).candidate(hash6(v6)) != table.Lookup6(v6).Slot() {
				wrong++
			}
			if largest(table.levels4).candidate(hash4(v4)) != table.Lookup4(v4).Slot() {
				wrong++
			}
		}
		if wrong > len(list)/20 {
			t.Errorf("%d of %d would be warmed in vain", wrong, 2*len(list))
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
