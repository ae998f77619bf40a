package mapping

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/ports"
)

// entryOf is the entry of a mapping that is alone.
func entryOf(t *testing.T, m Mapping) *Entry {
	table, err := New(netip.Prefix{}, []Mapping{m})
	if err != nil {
		t.Fatal(err)
	}
	return table.Get(m.IPv6)
}

// TestIdentificationRange: whatever the identification, base | (id & mask) is
// a number in the port set, so that workloads on one address never meet.
func TestIdentificationRange(t *testing.T) {
	mapt, _ := ports.PSID(6, 8, 0x34)
	for in, least := range map[string]int{
		"1024-2047": 1024, "0-65535": 65536, "443": 1, "1500-2523": 512,
		"1024-2047,8080": 1024, "443,1024-2047": 1024, "3-4": 1,
		"1024-1151,3072-3199": 256, mapt.String(): 128,
	} {
		set := ports.MustParse(in)
		e := entryOf(t, Mapping{IPv6: mustPrefix("2001:db8::1/128"), IPv4: mustPrefix("192.0.2.1/32"), Ports: set})
		base, mask := e.IdentificationRange()
		got := map[uint16]bool{}
		for id := range 65536 {
			got[base|uint16(id)&mask] = true
		}
		for id := range got {
			if !owns(set, id) {
				t.Fatalf("%s: identification %d is outside the set (base %#x mask %#x)", in, id, base, mask)
			}
		}
		if len(got) < least {
			t.Errorf("%s: %d identifications, want %d", in, len(got), least)
		}
	}
	whole := newEntry(Mapping{IPv6: mustPrefix("2001:db8::1/128"), IPv4: mustPrefix("192.0.2.1/32"), Ports: ports.Set{}}, 1)
	if base, mask := whole.IdentificationRange(); base != 0 || mask != 0xffff {
		t.Errorf("whole: %#x %#x", base, mask)
	}
}

func TestEchoRange(t *testing.T) {
	for in, want := range map[string]ports.Range{
		"": {First: 0, Last: 65535}, "443": {First: 443, Last: 443}, "1024-2047": {First: 1024, Last: 2047},
		"80,443,1024-2047,8080": {First: 1024, Last: 2047}, "1-9,11-19": {First: 1, Last: 9},
	} {
		e := entryOf(t, Mapping{IPv6: mustPrefix("2001:db8::1/128"), IPv4: mustPrefix("192.0.2.1/32"), Ports: ports.MustParse(in)})
		if got := e.EchoRange(); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
		for port := range 65536 {
			if want := in == "" || owns(ports.MustParse(in), uint16(port)); port%7 == 0 && e.Owns(uint16(port)) != want {
				t.Fatalf("%q: Owns(%d) is %v", in, port, !want)
			}
		}
	}
}
