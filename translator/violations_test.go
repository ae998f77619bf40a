package translator

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

func TestViolationsAreCountedByWorkload(t *testing.T) {
	table, err := mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), []mapping.Mapping{
		{IPv6: netip.MustParsePrefix("2001:db8:6::2/128"), IPv4: netip.MustParsePrefix("198.51.100.1/32"), Ports: ports.MustParse("1024-2047")},
		{IPv6: netip.MustParsePrefix("2001:db8:6::3/128"), IPv4: netip.MustParsePrefix("198.51.100.1/32"), Ports: ports.MustParse("2048-3071")},
	})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(Config{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1")}, table)
	if err != nil {
		t.Fatal(err)
	}
	slot := func(a string) uint32 { return tr.Table().Get(netip.MustParsePrefix(a + "/128")).Slot() }
	send := func(src string, port uint16) Verdict {
		buf := make([]byte, Headroom+60+Tailroom)
		p := &Packet{Buf: buf, Start: Headroom, End: Headroom + 60}
		b := p.Bytes()
		s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr("2001:db8:64::192.0.2.9").As16()
		put6(b, 0, 20, protoTCP, 64, mapping.Addr6From(netip.AddrFrom16(s)), mapping.Addr6From(netip.AddrFrom16(d)))
		b[40], b[41], b[52] = byte(port>>8), byte(port), 5<<4
		return tr.NewWorker().Translate(p)
	}
	for range 3 {
		if v := send("2001:db8:6::2", 2048).Reason(); v != PortOutsideSet {
			t.Fatalf("verdict %v", v)
		}
	}
	if v := send("2001:db8:6::3", 2048); v != Forward4 {
		t.Fatalf("verdict %v", v)
	}
	if a, b := tr.Violations(slot("2001:db8:6::2")), tr.Violations(slot("2001:db8:6::3")); a != 3 || b != 0 {
		t.Fatalf("violations %d and %d, want 3 and 0", a, b)
	}
	// They outlive an edit that needs more slots than there were.
	err = tr.Edit(func(old *mapping.Table) (*mapping.Table, error) {
		edit := old.Edit()
		for i := range uint32(chunkSlots) {
			a := mapping.Addr6{Hi: 0x20010db800070000, Lo: uint64(i)}.Addr()
			if err := edit.Insert(mapping.Mapping{IPv6: netip.PrefixFrom(a, 128), IPv4: netip.PrefixFrom(mapping.Addr4(0xcb007100+i), 32)}); err != nil {
				return nil, err
			}
		}
		return edit.Table(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	send("2001:db8:6::2", 2048)
	if n := tr.Violations(slot("2001:db8:6::2")); n != 4 {
		t.Errorf("after an edit %d violations, want 4", n)
	}
	if n := tr.Violations(1 << 20); n != 0 {
		t.Errorf("a slot that nobody has: %d", n)
	}
}
