package mapt

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// TestHolder: whichever address of its prefix is asked about, it is the CE's that has the
// prefix, also where the CE has an IPv4 prefix; and outside of the rules it is nobody's.
func TestHolder(t *testing.T) {
	rules, err := New([]Rule{
		{IPv6: netip.MustParsePrefix("2001:db8:4000::/40"), IPv4: netip.MustParsePrefix("198.18.80.0/24"), EABits: 16, PSIDOffset: 6},
		{IPv6: netip.MustParsePrefix("2001:db8:5000::/40"), IPv4: netip.MustParsePrefix("203.0.113.0/24"), EABits: 4, PSIDOffset: 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"198.18.80.18", "198.18.80.255", "203.0.113.0", "203.0.113.240"} {
		for _, port := range []uint16{1232, 1024, 65535} {
			own, ce, ok := rules.To6(mapping.Addr4From(netip.MustParseAddr(at)), port)
			if !ok {
				t.Fatalf("%s:%d is nobody's", at, port)
			}
			for _, other := range []mapping.Addr6{own, {Hi: own.Hi | 0x42, Lo: 7}, {Hi: own.Hi, Lo: 0}} {
				got, a4, who, ok := rules.Holder(other.Addr())
				if !ok || got != own.Addr() || mapping.Addr4(a4).String() != at || who != ce {
					t.Errorf("%s:%d, %v: it is that of %v with %v (%v)", at, port, other.Addr(), got, mapping.Addr4(a4), ok)
				}
			}
		}
	}
	for _, a := range []string{"2001:db8:6000::1", "198.18.80.18"} {
		if got, _, _, ok := rules.Holder(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is that of %v", a, got)
		}
	}
	if _, _, _, ok := (*Rules)(nil).Holder(netip.MustParseAddr("2001:db8:4000::1")); ok {
		t.Error("there are no rules")
	}
}
