package translator

import "testing"

// TestClient: for workloads that speak IPv4 over an IPv6-only link, what the
// prefix stands for lies on the IPv6 side, and nothing hairpins (RFC 6877).
func TestClient(t *testing.T) {
	w := newTestWorker(t, func(c *Config, _ *string) { c.Client = true })
	out4 := hdr4{src: work4, dst: server4, ttl: 64, proto: 6, flags: 0x4000}.packet(tcp(work4, server4, 1000, 80, []byte("x")))
	out6 := hdr6{src: work6, dst: server6, hop: 63, proto: 6}.packet(tcp(work6, server6, 1000, 80, []byte("x")))
	wantTranslated(t, w, out4, Forward6, out6)
	in6 := hdr6{src: server6, dst: work6, hop: 64, proto: 6}.packet(tcp(server6, work6, 80, 1000, []byte("y")))
	wantVerdict(t, w, in6, Forward4)
	wantVerdict(t, newTestWorker(t), in6, Hairpin) // as against the translator in the network
}

// TestClientShared: where workloads that speak IPv4 share an address, the source
// port says whose a packet is, and the first fragment for all of its datagram. What
// is nobody's is refused: under the prefix it would be somebody else's.
func TestClientShared(t *testing.T) {
	w := newTestWorker(t, func(c *Config, _ *string) { c.Client = true })
	from := func(port uint16, at int, more bool) hdr4 {
		h := hdr4{src: shared4, dst: server4, proto: 17, id: port, flags: uint16(at / 8)}
		if more {
			h.flags |= 0x2000
		}
		return h
	}
	l4, l6 := udp(shared4, server4, 1030, 53, data(100)), udp(sharedA6, server6, 1030, 53, data(100))
	whole6 := hdr6{src: sharedA6, dst: server6, proto: 17, hop: 63}
	piece6 := func(at int, more bool) hdr6 {
		return hdr6{src: sharedA6, dst: server6, hop: 63, next: 44, ext: fragHdr(17, at, more, 1030)}
	}
	later := from(1030, 64, false).packet(l4[64:])
	wantVerdict(t, w, later, PortOutsideSet) // whose it is, is not known yet
	wantTranslated(t, w, from(1030, 0, false).packet(l4), Forward6, whole6.packet(l6))
	wantTranslated(t, w, from(1030, 0, true).packet(l4[:64]), Forward6, piece6(0, true).packet(l6[:64]))
	wantTranslated(t, w, later, Forward6, piece6(64, false).packet(l6[64:]))
	w.SetTime(trackTime + 1)
	wantVerdict(t, w, later, PortOutsideSet)

	wantVerdict(t, w, from(9, 0, false).packet(udp(shared4, server4, 9, 53, nil)), PortOutsideSet|Replied)
	wantVerdict(t, w, hdr4{src: shared4, dst: server4, proto: 50}.packet(data(20)), PortOutsideSet|Replied)
	for port, want := range map[uint16]string{1030: sharedA6, 2050: sharedB6} {
		quote := hdr4{src: server4, dst: shared4, proto: 17}.packet(udp(server4, shared4, 53, port, nil))
		quote6 := hdr6{src: server6, dst: want, proto: 17}.packet(udp(server6, want, 53, port, nil))
		wantTranslated(t, w, hdr4{src: shared4, dst: server4, proto: 1}.packet(icmp4(3, 3, 0, quote)), Forward6,
			hdr6{src: want, dst: server6, proto: 58, hop: 63}.packet(icmp6(want, server6, 1, 4, 0, quote6)))
	}
}
