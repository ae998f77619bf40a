package mapping

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/translator/special"
)

func withPrefix(t testing.TB, prefix string) *Table {
	t.Helper()
	table, err := New(netip.MustParsePrefix(prefix), nil)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestEmbedVectors checks the examples of RFC 6052 section 2.4.
func TestEmbedVectors(t *testing.T) {
	v4 := Addr4From(netip.MustParseAddr("192.0.2.33"))
	for prefix, want := range map[string]string{
		"2001:db8::/32":         "2001:db8:c000:221::",
		"2001:db8:100::/40":     "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":     "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":          "64:ff9b::192.0.2.33",
	} {
		table := withPrefix(t, prefix)
		if got := table.Embed(v4).Addr(); got != netip.MustParseAddr(want) {
			t.Errorf("%s: embed gives %v, want %s", prefix, got, want)
		}
		if got, ok := table.Extract(Addr6From(netip.MustParseAddr(want))); !ok || got != v4 {
			t.Errorf("%s: extract gives %v %v", prefix, Addr4(got), ok)
		}
	}
}

// TestEmbedOctets compares with octets moved one by one, and checks that octet
// "u" and the suffix do not matter on input.
func TestEmbedOctets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for length, where := range places {
		p := netip.PrefixFrom(netip.MustParseAddr("2001:db8:a5a5:5a5a:0:ffff:1234:5678"), length).Masked()
		table := withPrefix(t, p.String())
		for range 1000 {
			v4 := rnd.Uint32()
			want, octets := p.Addr().As16(), Addr4(v4).As4()
			for i, o := range octets {
				want[where[i]] = o
			}
			got := table.Embed(v4)
			if got.Addr() != netip.AddrFrom16(want) {
				t.Fatalf("/%d: %v becomes %v, want %v", length, Addr4(v4), got.Addr(), netip.AddrFrom16(want))
			}
			if length < 96 {
				got.Lo |= rnd.Uint64() & (0xff << 56)                      // octet u
				got.Lo |= rnd.Uint64() & (1<<56 - 1) >> min(length-32, 32) // suffix
			}
			if back, ok := table.Extract(got); !ok || back != v4 {
				t.Fatalf("/%d: %v gives back %v %v", length, got.Addr(), Addr4(back), ok)
			}
			flip := rnd.IntN(length)
			if flip < 64 {
				got.Hi ^= 1 << (63 - flip)
			} else {
				got.Lo ^= 1 << (127 - flip)
			}
			if _, ok := table.Extract(got); ok {
				t.Fatalf("/%d: %v is outside of the prefix", length, got.Addr())
			}
		}
	}
}

func TestNoPrefix(t *testing.T) {
	table, err := New(netip.Prefix{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"::", "64:ff9b::1.2.3.4", "2001:db8::"} {
		if _, ok := table.Extract(Addr6From(netip.MustParseAddr(a))); ok {
			t.Errorf("%s extracted without a prefix", a)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("Embed without a prefix did not panic")
		}
	}()
	table.Embed(1)
}

func TestPrefixRefused(t *testing.T) {
	for prefix, want := range map[string]string{
		"2001:db8::/33":          "32, 40, 48, 56, 64 or 96",
		"2001:db8::/128":         "32, 40, 48, 56, 64 or 96",
		"192.0.2.0/32":           "wrong address family",
		"64:ff9b::1/96":          "did you mean 64:ff9b::/96?",
		"2001:db8:1::/32":        "did you mean 2001:db8::/32?",
		"2001:db8:0:0:100::/96":  "did you mean 2001:db8::/96?",
		"2001:db8:0:0:ff00::/96": "bits 64 to 71",
		"fe80::/64":              "fe80::/10",
		"ff02::/96":              "ff00::/8",
		"::ffff:0:0/96":          "IPv4-mapped",
		"::/96":                  "::/128",
		"::/32":                  "::/128",
	} {
		_, err := New(netip.MustParsePrefix(prefix), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", prefix, err, want)
		}
	}
}

func TestAddrConversion(t *testing.T) {
	a := netip.MustParseAddr("2001:db8:1:2:3:4:5:6")
	if got := Addr6From(a); got != (Addr6{0x20010db800010002, 0x0003000400050006}) || got.Addr() != a {
		t.Errorf("%x", got)
	}
	b := netip.MustParseAddr("192.0.2.33")
	if got := Addr4From(b); got != 0xc0000221 || Addr4(got) != b {
		t.Errorf("%x", got)
	}
}

// TestSuspicious holds the first octets against the table of special addresses.
func TestSuspicious(t *testing.T) {
	for b := range 256 {
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{byte(b)}), netip.AddrFrom16([16]byte{byte(b)})} {
			p := netip.PrefixFrom(a, 8)
			_, want := special.Overlaps(p)
			if suspicious(a) != want {
				t.Errorf("%v: %v, want %v", p, suspicious(a), want)
			}
		}
	}
}
