package mapping

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestSetPrefix: a table that was given another prefix answers as one that was made with
// it, and every mapping has the slot that it had.
func TestSetPrefix(t *testing.T) {
	t.Parallel()
	prefixes := []netip.Prefix{{}, netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/56"),
		netip.MustParsePrefix("2001:db8::/32")}
	var all []Mapping
	for i, v6 := range []string{"2001:db8:64::/64", "2001:db8:64:1::7/128", "64:ff9b::c000:201/128", "2001:db8:9::/48", "2001:db7::1/128"} {
		all = append(all, Mapping{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i))})
		if bits := all[i].IPv6.Bits(); bits < 128 {
			all[i].IPv4 = netip.MustParsePrefix(fmt.Sprintf("198.51.%d.0/24", i))
		}
	}
	asked := []string{"64:ff9b::c000:201", "64:ff9b::1", "2001:db8:64::1", "2001:db8:64:1::7", "2001:db8:64:2::7", "2001:db8:9::1", "2001:db7::1", "2001:db7::2"}
	for _, from := range prefixes {
		for _, to := range prefixes {
			before, err := New(from, all)
			if err != nil {
				t.Fatal(err)
			}
			want, err := New(to, all)
			if err != nil {
				t.Fatal(err)
			}
			edit := before.Edit()
			if err := edit.SetPrefix(to); err != nil {
				t.Fatal(err)
			}
			got := edit.Table()
			if got.Prefix() != to || got.inPrefix != want.inPrefix || got.embedded != want.embedded || before.Prefix() != from {
				t.Errorf("%v to %v: %v with %d mappings in it, want %d", from, to, got.Prefix(), got.inPrefix, want.inPrefix)
			}
			for _, a := range asked {
				addr := Addr6From(netip.MustParseAddr(a))
				g, w := got.Lookup6(addr), want.Lookup6(addr)
				if (g == nil) != (w == nil) || g != nil && !g.Mapping().Equal(w.Mapping()) {
					t.Errorf("%v to %v: %s is %v, want %v", from, to, a, g, w)
				}
			}
			for _, m := range all {
				if got.Get(m.IPv6).Slot() != before.Get(m.IPv6).Slot() {
					t.Errorf("%v to %v: %v has another slot", from, to, m)
				}
			}
		}
	}
	edit := empty(netip.Prefix{}).Edit()
	if err := edit.SetPrefix(netip.MustParsePrefix("64:ff9b::/95")); err == nil {
		t.Error("a prefix of 95 bits was taken")
	}
}
