package translator

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// TestHost4: where workloads share the host's own address, what is the host's
// is let alone in silence, whoever comes too.
func TestHost4(t *testing.T) {
	host := func(c *Config, _ *string) { c.Host4 = netip.MustParseAddr(shared4) }
	w, without := newTestWorker(t, host), newTestWorker(t)
	in4 := func(proto uint8, ttl uint8, flags uint16, l4 []byte) []byte {
		return hdr4{src: server4, dst: shared4, proto: proto, ttl: ttl, flags: flags}.packet(l4)
	}
	quote := hdr4{src: shared4, dst: server4, proto: 17}
	for _, c := range []struct {
		name      string
		in        []byte
		with      Verdict
		otherwise Verdict // where the address is only the workloads'
	}{
		{"workload's tcp", in4(6, 64, 0x4000, tcp(server4, shared4, 80, 1024, nil)), Forward6, Forward6},
		{"nobody's udp came by its port", in4(17, 64, 0x4000, udp(server4, shared4, 53, 5000, nil)), PortUnassigned | Replied, PortUnassigned | Replied},
		{"nobody's sctp", in4(132, 64, 0x4000, data(24)), PortUnassigned, PortUnassigned},
		{"copy of the host's echo reply", in4(1, 64, 0, icmp4(0, 0, 9<<16, data(8))), PortUnassigned, PortUnassigned},
		{"copy that is at its end", in4(1, 1, 0, icmp4(0, 0, 9<<16, data(8))), PortUnassigned, HopLimitExceeded | Replied},
		{"workload's echo reply", in4(1, 64, 0, icmp4(0, 0, 1024<<16, data(8))), Forward6, Forward6},
		{"copy of the host's first fragment", in4(17, 64, 0x2000, udp(server4, shared4, 53, 5000, data(16))), PortUnassigned, PortUnassigned | Replied},
		{"copy of an error for the host", in4(1, 64, 0, icmp4(3, 3, 0, quote.packet(udp(shared4, server4, 5000, 53, nil)))), PortUnassigned, PortUnassigned},
		{"error for a workload", in4(1, 64, 0, icmp4(3, 3, 0, quote.packet(udp(shared4, server4, 1024, 53, nil)))), Forward6, Forward6},
		{"workload to the host", hdr6{src: sharedA6, dst: sharedIn6, proto: 6}.packet(tcp(sharedA6, sharedIn6, 1024, 22, nil)), Forward4, PortUnassigned | Replied},
		{"workload to workload", hdr6{src: sharedA6, dst: sharedIn6, proto: 6}.packet(tcp(sharedA6, sharedIn6, 1024, 2048, nil)), Hairpin, Hairpin},
		{"workload pings the host", hdr6{src: sharedA6, dst: sharedIn6, proto: 58}.packet(icmp6(sharedA6, sharedIn6, 128, 0, 1024<<16, nil)), Forward4, Hairpin},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantVerdict(t, w, c.in, c.with)
			wantVerdict(t, without, c.in, c.otherwise)
		})
	}
}

// TestHost4Alone: before the first workload comes, nothing is translated.
func TestHost4Alone(t *testing.T) {
	c := testConfig()
	c.Host4 = netip.MustParseAddr(shared4)
	table, err := mapping.New(netip.MustParsePrefix(testPrefix), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	w := tr.NewWorker()
	for proto, l4 := range map[uint8][]byte{6: tcp(server4, shared4, 80, 40000, nil), 17: udp(server4, shared4, 53, 40000, nil), 1: icmp4(0, 0, 1, nil)} {
		wantVerdict(t, w, hdr4{src: server4, dst: shared4, proto: proto, flags: 0x4000}.packet(l4), PortUnassigned)
	}
	wantVerdict(t, w, hdr4{src: server4, dst: shared4, proto: 17, flags: 4}.packet(data(16)), PortUnassigned) // a later fragment
	for _, bad := range []string{"2001:db8::1", own4} {
		c.Host4 = netip.MustParseAddr(bad)
		if _, err := New(c, table); err == nil {
			t.Errorf("host address %s was taken", bad)
		}
	}
}
