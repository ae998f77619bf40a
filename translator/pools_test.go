package translator

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// In the prefix it would come straight back to the device, until its TTL ends.
func TestAddressOfAPoolThatNobodyHas(t *testing.T) {
	table, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(Config{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1"),
		Pools4: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30")}}, table)
	if err != nil {
		t.Fatal(err)
	}
	for dst, want := range map[uint32]Verdict{
		0xc6336402: UntranslatableDestination | Replied,
		0xc6336404: Forward6, // no pool's: the prefix may have hosts of its own
	} {
		p := &Packet{Buf: make([]byte, Headroom+100+Tailroom), Start: Headroom, End: Headroom + 40}
		put4(p.Bytes(), 0, 40, 1, 0, 64, protoTCP, 0xc0000209, dst)
		p.Bytes()[32] = 5 << 4
		if v := tr.NewWorker().Translate(p); v != want {
			t.Errorf("to %08x: %v, want %v", dst, v, want)
		}
	}
}
