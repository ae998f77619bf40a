package mapping

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/natless/natless/translator/ports"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// m reads "2001:db8::/120 192.0.2.0/24 1-2,5"; a bare address is a prefix of
// full length.
func m(s string) Mapping {
	f := strings.Fields(s)
	var p [2]netip.Prefix
	for i := range p {
		if a, err := netip.ParseAddr(f[i]); err == nil {
			p[i] = netip.PrefixFrom(a, a.BitLen())
		} else {
			p[i] = mustPrefix(f[i])
		}
	}
	mapping := Mapping{IPv6: p[0], IPv4: p[1]}
	if len(f) > 2 {
		mapping.Ports = ports.MustParse(f[2])
	}
	return mapping
}

func ms(list ...string) (out []Mapping) {
	for _, s := range list {
		out = append(out, m(s))
	}
	return out
}

func build(t testing.TB, list ...string) *Table {
	t.Helper()
	table, err := New(mustPrefix("64:ff9b::/96"), ms(list...))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestLongestPrefix: the longest prefix wins, in each family by itself, and
// suffixes are copied as RFC 7757 3.3 says.
func TestLongestPrefix(t *testing.T) {
	table := build(t,
		"2001:db8:aaaa:: 192.0.2.1", "2001:db8:bbbb::b/128 192.0.2.2",
		"2001:db8:cccc::/120 192.0.2.16/28", "2001:db8:dddd::/64 192.0.2.128/25",
		"2001:db8:cccc::5 198.51.100.9", "2001:db8:eeee::/62 203.0.113.0/24",
		"2001:db8::/32 10.0.0.0/8")
	for v6, v4 := range map[string]string{
		"2001:db8:aaaa::":        "192.0.2.1",
		"2001:db8:bbbb::b":       "192.0.2.2",
		"2001:db8:cccc::70":      "192.0.2.23",   // the first four suffix bits
		"2001:db8:cccc::7f":      "192.0.2.23",   // the others are ignored
		"2001:db8:cccc::5":       "198.51.100.9", // longer
		"2001:db8:dddd:0:0200::": "192.0.2.129",
		"2001:db8:eeee:3::":      "203.0.113.192",
		"2001:db8:0102:0300::":   "10.1.2.3",
	} {
		a := netip.MustParseAddr(v6)
		e := table.Lookup6(Addr6From(a))
		if e == nil {
			t.Errorf("%s: not found", v6)
			continue
		}
		if got := Addr4(e.To4(Addr6From(a))); got.String() != v4 {
			t.Errorf("%s becomes %v, want %s", v6, got, v4)
		}
	}
	for v4, v6 := range map[string]string{
		"192.0.2.1": "2001:db8:aaaa::", "192.0.2.23": "2001:db8:cccc::70",
		"192.0.2.129": "2001:db8:dddd:0:0200::", "198.51.100.9": "2001:db8:cccc::5",
		"203.0.113.192": "2001:db8:eeee:3::", "10.1.2.3": "2001:db8:0102:0300::",
	} {
		a := Addr4From(netip.MustParseAddr(v4))
		if got := table.Lookup4(a).To6(a).Addr(); got != netip.MustParseAddr(v6) {
			t.Errorf("%s becomes %v, want %s", v4, got, v6)
		}
	}
	if table.Lookup4(Addr4From(netip.MustParseAddr("192.0.2.3"))) != nil {
		t.Error("192.0.2.3 is found")
	}
	if table.Lookup6(Addr6From(netip.MustParseAddr("2001:db9::"))) != nil {
		t.Error("2001:db9:: is found")
	}
	if e := table.Get(mustPrefix("2001:db8:cccc::/120")); e == nil || !e.Mapping().Equal(m("2001:db8:cccc::/120 192.0.2.16/28")) {
		t.Error("Get does not find 2001:db8:cccc::/120")
	}
	for _, p := range []string{"2001:db8:cccc::/121", "2001:db8:cccd::/120", "192.0.2.1/32"} {
		if table.Get(mustPrefix(p)) != nil {
			t.Errorf("Get finds %s", p)
		}
	}
}

// TestSharedAddress: the port decides among the owners of one address.
func TestSharedAddress(t *testing.T) {
	table := build(t, "2001:db8::1 192.0.2.1 1024-2047", "2001:db8::2 192.0.2.1 2048-3071,8080",
		"2001:db8::3 192.0.2.1 443", "2001:db8::/120 192.0.2.0/24")
	a := Addr4From(netip.MustParseAddr("192.0.2.1"))
	head := table.Lookup4(a)
	if !head.Shared() {
		t.Fatal("not shared")
	}
	for port, want := range map[uint16]string{1024: "::1", 2047: "::1", 2048: "::2", 3071: "::2", 8080: "::2", 443: "::3",
		1023: "", 3072: "", 442: "", 444: "", 0: "", 65535: "", 8079: "", 8081: ""} {
		e := table.Port(head, a, port)
		if (e == nil) != (want == "") || e != nil && (e.To6(a).Addr().String() != "2001:db8"+want || !e.Owns(port) || !e.Shared()) {
			t.Errorf("port %d: %v", port, e)
		}
	}
	whole := table.Lookup4(a + 1)
	if whole.Shared() || table.Port(whole, a+1, 1) != nil {
		t.Error("192.0.2.2 is shared")
	}
	if e := table.Lookup6(Addr6From(netip.MustParseAddr("2001:db8::2"))); !e.Shared() || !e.Owns(8080) || e.Owns(1024) {
		t.Error("2001:db8::2 owns the wrong ports")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		mappings []Mapping
		want     []string
	}{
		{ms("2001:db8::1 192.0.2.1", "2001:db8::1 192.0.2.2"), []string{"mapping 1", "mapping 0", "ipv6 2001:db8::1/128"}},
		{ms("2001:db8::9 192.0.2.9", "2001:db8::1 192.0.2.1", "2001:db8::2 192.0.2.1"), []string{"mapping 2", "mapping 1", "ipv4 192.0.2.1/32"}},
		{ms("2001:db8::/125 192.0.2.0/28"), []string{"mapping 0", "suffix bits", "/29"}},
		{ms("2001:db8::1/64 192.0.2.1"), []string{"host bits", "2001:db8::/64"}},
		{ms("2001:db8::/64 192.0.2.1/24"), []string{"host bits", "192.0.2.0/24"}},
		{ms("192.0.2.2 192.0.2.1"), []string{"ipv6 192.0.2.2/32", "family"}},
		{ms("2001:db8::1 2001:db8::2"), []string{"ipv4 2001:db8::2/128", "family"}},
		{ms("::ffff:192.0.2.1 192.0.2.1"), []string{"IPv4-mapped"}},
		{ms("::1 192.0.2.1"), []string{"never translated"}},
		{ms(":: 192.0.2.1"), []string{"never translated"}},
		{ms("fe80::1 192.0.2.1"), []string{"fe80::/10"}},
		{ms("ff02::1 192.0.2.1"), []string{"ff00::/8"}},
		{ms("2001:db8::1 127.0.0.1"), []string{"127.0.0.0/8"}},
		{ms("2001:db8::1 0.0.0.1"), []string{"0.0.0.0/8"}},
		{ms("2001:db8::1 169.254.1.1"), []string{"169.254.0.0/16"}},
		{ms("2001:db8::1 224.0.0.1"), []string{"224.0.0.0/4"}},
		{ms("2001:db8::1 255.255.255.255"), []string{"240.0.0.0/4"}},
		{ms("2001:db8::/64 192.0.2.0/24 1-2"), []string{"/32"}},
		{[]Mapping{{}}, []string{"ipv6: no prefix"}},
		{[]Mapping{{IPv6: mustPrefix("2001:db8::/128")}}, []string{"ipv4: no prefix"}},
		{ms("2001:db8::1 192.0.2.1 1-10", "2001:db8::2 192.0.2.1 20-30,10-11"),
			[]string{"mapping 1", "mapping 0", "port 10 of 192.0.2.1"}},
		{ms("2001:db8::1 192.0.2.1 1-10", "2001:db8::2 192.0.2.1"), []string{"mapping 1", "mapping 0", "share of 192.0.2.1"}},
		{ms("2001:db8::1 192.0.2.1", "2001:db8::2 192.0.2.1 1-10"), []string{"mapping 1", "mapping 0", "ipv4 192.0.2.1/32"}},
	} {
		_, err := New(netip.Prefix{}, c.mappings)
		var entry *EntryError
		if !errors.As(err, &entry) || entry.Index != len(c.mappings)-1 {
			t.Errorf("%v: error %v", c.mappings, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: error %q, want %q in it", c.mappings, err, want)
			}
		}
	}
}

// TestInside: a mapping with IPv4 inside the workload is another than one without,
// and takes one address of each family.
func TestInside(t *testing.T) {
	for _, s := range []string{"2001:db8::1 192.0.2.1", "2001:db8::1 192.0.2.1 1-9,20"} {
		without, with := m(s), m(s)
		with.Inside = true
		if with.Equal(without) || without.Equal(with) || with.String() != without.String()+" inside" {
			t.Errorf("%v and %v", with, without)
		}
		table, err := New(netip.Prefix{}, []Mapping{with})
		if err != nil {
			t.Fatal(err)
		}
		if e := table.Get(with.IPv6); !e.Inside() || !e.Mapping().Equal(with) {
			t.Errorf("%v has become %v", with, e.Mapping())
		}
		if _, err := table.Remove(without); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v goes as %v: %v", with, without, err)
		}
		other := build(t, s)
		if table.Get(with.IPv6).same(other.Get(with.IPv6)) || other.Get(with.IPv6).same(table.Get(with.IPv6)) {
			t.Errorf("%v is taken for %v", with, without)
		}
	}
	for _, s := range []string{"2001:db8::/127 192.0.2.1", "2001:db8::/96 192.0.2.0/24"} {
		wide := m(s)
		wide.Inside = true
		if err := wide.Validate(); err == nil || !strings.Contains(err.Error(), "/128 and a /32") {
			t.Errorf("%v: %v", wide, err)
		}
	}
}

// TestLegalOverlap: prefixes that differ may overlap, also around addresses
// that are never translated.
func TestLegalOverlap(t *testing.T) {
	build(t, "2001:db8::/96 0.0.0.0/0", "2001:db8::/120 192.0.2.0/24", "2001:db8::1 192.0.2.1 1-9", "::/0 10.0.0.0/8")
}

func TestRemoveNeedsTheSame(t *testing.T) {
	table := build(t, "2001:db8::1 192.0.2.1 1-9", "2001:db8::2 192.0.2.2")
	for _, s := range []string{"2001:db8::1 192.0.2.1 1-8", "2001:db8::1 192.0.2.1", "2001:db8::2 192.0.2.3", "2001:db8::3 192.0.2.2"} {
		if _, err := table.Remove(m(s)); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// TestSlots: a slot stays while the mapping stays, also where another of the same
// IPv6 prefix comes in its place, and is another's only after many others were
// free. As many slots are free as that needs, and no more.
func TestSlots(t *testing.T) {
	table := build(t, "2001:db8::1 192.0.2.1", "2001:db8::2 192.0.2.2", "2001:db8::3 192.0.2.3 1-9")
	slot := func(p string) uint32 { return table.Get(mustPrefix(p)).Slot() }
	one, three := slot("2001:db8::1/128"), slot("2001:db8::3/128")
	edit := table.Edit()
	if err := errors.Join(edit.Remove(m("2001:db8::3 192.0.2.3 1-9")), edit.Insert(m("2001:db8::3 192.0.2.4 10-20"))); err != nil {
		t.Fatal(err)
	}
	if table = edit.Table(); slot("2001:db8::3/128") != three {
		t.Errorf("slot %d, and then %d", three, slot("2001:db8::3/128"))
	}
	was := map[uint32]int{} // when a slot was let go
	next := func(i int) (Mapping, Mapping) {
		a := Addr6{0x20010db8_00000001, uint64(i)}.Addr()
		return Mapping{IPv6: netip.PrefixFrom(a, 128), IPv4: netip.PrefixFrom(Addr4(0x0a000000|uint32(i)), 32)},
			Mapping{IPv6: netip.PrefixFrom(a, 128), IPv4: netip.PrefixFrom(Addr4(0x0b000000|uint32(i)), 32), Ports: ports.MustParse("1-9")}
	}
	for i := range 5 * quarantine {
		plain, shared := next(i)
		for _, m := range []Mapping{plain, shared} {
			var err error
			if table, err = table.Insert(m); err != nil {
				t.Fatal(err)
			}
			s := table.Get(m.IPv6).Slot()
			if at, before := was[s]; before && (i-at)*2 < quarantine/2 {
				t.Fatalf("mapping %d has slot %d, which mapping %d had", i, s, at)
			}
			was[s] = i
			if table, err = table.Remove(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := table.Slots(); n > quarantine+10 {
		t.Errorf("%d slots for 3 mappings and a quarantine of %d", n, quarantine)
	}
	if slot("2001:db8::1/128") != one {
		t.Error("a slot moved")
	}
	seen := []uint32{}
	for e := range table.Entries() {
		seen = append(seen, e.Slot())
	}
	if len(seen) != 3 || !slices.IsSorted(seen) || seen[2] >= uint32(table.Slots()) {
		t.Errorf("slots %v of %d", seen, table.Slots())
	}
}

// TestRefusedChangeLeavesBatch: what an Edit refuses leaves no trace.
func TestRefusedChangeLeavesBatch(t *testing.T) {
	table := build(t, "2001:db8::1 192.0.2.1 1-9")
	e := table.Edit()
	for _, s := range []string{"2001:db8::2 192.0.2.1 1,20-30", "2001:db8::1 192.0.2.7", "2001:db8::2 192.0.2.1"} {
		if c := (*Collision)(nil); !errors.As(e.Insert(m(s)), &c) {
			t.Errorf("%s is accepted", s)
		}
	}
	if err := e.Insert(m("2001:db8::2 192.0.2.1 20-30")); err != nil {
		t.Error(err)
	}
	next := e.Table()
	if next.Len() != 2 || table.Len() != 1 || len(slices.Collect(next.All())) != 2 {
		t.Errorf("%d and %d mappings", next.Len(), table.Len())
	}
}

func TestNoAllocs(t *testing.T) {
	table := build(t, "2001:db8::1 192.0.2.1 1024-2047", "2001:db8::2 192.0.2.1 2048-3071,8080", "2001:db8::/120 192.0.2.0/24")
	shared, a := Addr6From(netip.MustParseAddr("2001:db8::2")), Addr4From(netip.MustParseAddr("192.0.2.1"))
	if n := testing.AllocsPerRun(100, func() {
		e := table.Lookup6(shared)
		e.Owns(8080)
		e.EchoRange()
		e.IdentificationRange()
		e.Slot()
		a := e.To4(shared)
		p := table.Port(table.Lookup4(a), a, 2050)
		p.To6(a)
		table.Extract(table.Embed(a))
		table.Lookup4(a + 1).To6(a + 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	_ = a
}

// TestExpect sees that a table that was told what to expect, rightly or not, is
// what it is without, and that the one before stays.
func TestExpect(t *testing.T) {
	for name, list := range map[string][]Mapping{"hosts": hosts(3000), "sharers": sharers(3000)} {
		for _, n := range []int{-1, 0, 1, 2000, 500_000, 1 << 30} {
			if unborn, err := New(netip.Prefix{}, nil); err != nil || expecting(unborn, n) != 0 {
				t.Fatalf("%v, or something is in a table that expects %d", err, n)
			}
			first, err := New(netip.Prefix{}, list[:1000])
			if err != nil {
				t.Fatal(err)
			}
			e := first.Edit()
			e.Expect(n)
			for _, m := range list[1000:] {
				if err := e.Insert(m); err != nil {
					t.Fatal(err)
				}
			}
			whole := e.Table()
			for i, m := range list {
				if got := whole.Get(m.IPv6); got == nil || !got.Mapping().Equal(m) {
					t.Fatalf("%s, expecting %d: %v is %v", name, n, m, got)
				}
				v4 := Addr4From(m.IPv4.Addr())
				owner := whole.Lookup4(v4)
				if owner != nil && !m.Ports.IsZero() {
					owner = whole.Port(owner, v4, m.Ports.Min())
				}
				if owner == nil || !owner.Mapping().Equal(m) {
					t.Fatalf("%s, expecting %d: %v by its IPv4 address is %v", name, n, m, owner)
				}
				if got := first.Get(m.IPv6); (got != nil) != (i < 1000) {
					t.Fatalf("%s, expecting %d: before, %v was %v", name, n, m, got)
				}
			}
			if err := func() (err error) {
				e := whole.Edit()
				for _, m := range list {
					if err = e.Remove(m); err != nil {
						return err
					}
				}
				if n := e.Table().Len(); n != 0 {
					return fmt.Errorf("%d are left", n)
				}
				return nil
			}(); err != nil {
				t.Fatalf("%s, expecting %d: %v", name, n, err)
			}
		}
	}
}

// TestHolds compares entries of tables, one of which differs from the other by one
// mapping in each thing that a mapping has.
func TestHolds(t *testing.T) {
	t.Parallel()
	mapped := func(v6, v4, set string) (m Mapping) {
		m = Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4)}
		if set != "" {
			m.Ports = ports.MustParse(set)
		}
		return m
	}
	all := []Mapping{
		mapped("2001:db8::1/128", "192.0.2.1/32", ""), mapped("2001:db8::1/128", "192.0.2.2/32", ""),
		mapped("2001:db8::1/128", "192.0.2.1/32", "1024-2047"), mapped("2001:db8::1/128", "192.0.2.1/32", "1024-2046"),
		mapped("2001:db8::1/128", "192.0.2.1/32", "80,1024-2047"), mapped("2001:db8::1/128", "192.0.2.1/32", "81,1024-2047"),
		mapped("2001:db8::/64", "192.0.2.0/24", ""), mapped("2001:db8::/64", "192.0.2.0/25", ""), mapped("2001:db8::/80", "192.0.2.0/24", ""),
	}
	for i, m := range all {
		table, err := New(netip.Prefix{}, []Mapping{m})
		if err != nil {
			t.Fatal(err)
		}
		for j, o := range all {
			other, err := New(netip.Prefix{}, []Mapping{mapped("2001:db8:1::/64", "198.51.100.0/24", ""), o})
			if err != nil {
				t.Fatal(err)
			}
			if got := other.Holds(table.Get(m.IPv6)); got != (i == j) {
				t.Errorf("a table of %v holds %v: %v", o, m, got)
			}
		}
	}
}

// expecting is how many levels a table has in which nothing came that was expected.
func expecting(table *Table, n int) int {
	e := table.Edit()
	e.Expect(n)
	after := e.Table()
	return len(after.levels6) + len(after.levels4) + after.Len()
}
