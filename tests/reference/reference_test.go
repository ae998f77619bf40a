package reference

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/special"
)

// TestEmbed has the examples of RFC 6052 2.4.
func TestEmbed(t *testing.T) {
	v4 := netip.MustParseAddr("192.0.2.33")
	for prefix, want := range map[string]string{
		"2001:db8::/32":         "2001:db8:c000:221::",
		"2001:db8:100::/40":     "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":     "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":          "64:ff9b::192.0.2.33",
	} {
		p := netip.MustParsePrefix(prefix)
		got := Embed(p, v4)
		if got != netip.MustParseAddr(want) {
			t.Errorf("%s: %v, want %s", prefix, got, want)
		}
		if back := Extract(p, got); back != v4 {
			t.Errorf("%s: back to %v", prefix, back)
		}
	}
}

func TestMoveSuffix(t *testing.T) {
	for _, x := range []struct{ addr, from, to, want string }{
		{"2001:db8:7::9", "2001:db8:7::/120", "203.0.113.0/24", "203.0.113.9"},
		{"203.0.113.9", "203.0.113.0/24", "2001:db8:7::/120", "2001:db8:7::9"},
		{"203.0.113.140", "203.0.113.128/26", "2001:db8:8::/64", "2001:db8:8:0:3000::"},
		{"2001:db8:8:0:30ab:cdef::1", "2001:db8:8::/64", "203.0.113.128/26", "203.0.113.140"},
		{"198.51.100.7", "198.51.100.7/32", "2001:db8:5::/64", "2001:db8:5::"},
	} {
		got := moveSuffix(netip.MustParseAddr(x.addr), netip.MustParsePrefix(x.from), netip.MustParsePrefix(x.to))
		if got != netip.MustParseAddr(x.want) {
			t.Errorf("%v: %v", x, got)
		}
	}
}

// TestEquallyWrong carries right and wrong checksums over a change of bytes.
func TestEquallyWrong(t *testing.T) {
	before, after := []byte{1, 2, 3, 4}, []byte{9, 8, 7, 6}
	right := equallyWrong(0, 65535-sum(after), 0) // the checksum of nothing but after
	for _, wrong := range []uint32{0, 1, 700, 65534} {
		field := uint16((65535 - sum(before) + wrong) % 65535)
		got := equallyWrong(field, sum(before), sum(after))
		if want := uint16((uint32(right) + wrong) % 65535); got != want {
			t.Errorf("wrong by %d: %#x, want %#x", wrong, got, want)
		}
	}
}

// TestSpecial walks the table of special addresses: the reference's own lists
// say of the edges of each entry, and of what lies beside them, what it says.
func TestSpecial(t *testing.T) {
	for _, e := range special.Registry {
		last := e.Prefix.Addr().AsSlice()
		for i := e.Prefix.Bits(); i < len(last)*8; i++ {
			last[i/8] |= 0x80 >> (i % 8)
		}
		end, _ := netip.AddrFromSlice(last)
		for _, a := range []netip.Addr{e.Prefix.Addr().Prev(), e.Prefix.Addr(), end, end.Next()} {
			if !a.IsValid() {
				continue
			}
			entry, listed := special.Lookup(a)
			never := within(a, never4)
			if a.Is6() {
				never = within(a, never6)
			}
			if never != entry.Never {
				t.Errorf("%v is never translated: %v, and in the table %v", a, never, entry.Never)
			}
			if global := !listed || entry.Global; a.Is4() && isNonGlobal(a) == global {
				t.Errorf("%v is not global: %v, and global in the table: %v", a, isNonGlobal(a), global)
			}
		}
	}
}
