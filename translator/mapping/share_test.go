package mapping

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/ports"
)

// TestShareOfMany: one address has an owner for nearly each port, more than a block can
// name, who come and go in any order.
func TestShareOfMany(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	s, want := &share{}, map[uint16]uint32{} // slots
	check := func() {
		t.Helper()
		for port := range 1 << 16 {
			e, slot := s.find(uint16(port)), want[uint16(port)]
			if (e == nil) != (slot == 0) || e != nil && e.Slot() != slot {
				t.Fatalf("port %d of %d owners: %v, want slot %d", port, len(s.owners), e, slot)
			}
		}
	}
	for i, port := range rnd.Perm(1 << 16)[:60_000] {
		slot := uint32(i + 1)
		s.add(ports.Of(ports.Single(uint16(port))), Entry{word: slot | live})
		want[uint16(port)] = slot
	}
	check()
	for range 5 {
		gone := 0
		for port := range want { // in any order
			s.remove(ports.Of(ports.Single(port)))
			delete(want, port)
			if gone++; gone == 60 {
				break
			}
		}
		check()
	}
}

// TestPolice: a mapping has its new policy by whichever way it is found, and only in the
// table that the edit made, whether it has an address to itself, a share or one with holes.
func TestPolice(t *testing.T) {
	before := build(t, "2001:db8::1 192.0.2.1", "2001:db8::2 192.0.2.2 1024-2047", "2001:db8::3 192.0.2.2 80,4096-8191", "2001:db8:1::/64 198.51.100.0/24")
	for number, m := range ms("2001:db8::1 192.0.2.1", "2001:db8::2 192.0.2.2 1024-2047", "2001:db8::3 192.0.2.2 80,4096-8191", "2001:db8:1::/64 198.51.100.0/24") {
		want := uint16(number + 7)
		e := before.Edit()
		if !e.Police(m.IPv6, want) {
			t.Fatalf("%v is not there", m)
		}
		after := e.Table()
		find := func(table *Table) (found []*Entry) {
			a := Addr4From(m.IPv4.Addr())
			four := table.Lookup4(a)
			if four.Shared() {
				four = table.Port(four, a, m.Ports.Min())
			}
			six := table.Lookup6(Addr6From(m.IPv6.Addr()))
			return []*Entry{six, four, table.Get(m.IPv6), table.At(six.Slot()), table.Tagged(six.Tag())}
		}
		for i, e := range find(after) {
			if e.Policy() != want || e.Mapping().Policy != want || !e.Mapping().Equal(m) {
				t.Errorf("%v, way %d: policy %d, want %d", e.Mapping(), i, e.Policy(), want)
			}
		}
		for i, e := range find(before) {
			if e.Policy() != 0 {
				t.Errorf("%v, way %d: policy %d in the table before", e.Mapping(), i, e.Policy())
			}
		}
	}
	if e := before.Edit(); e.Police(netip.MustParsePrefix("2001:db8::9/128"), 1) {
		t.Error("who is not there is policed")
	}
}
