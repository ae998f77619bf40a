package translator

import (
	"bytes"
	"encoding/binary"
	"testing"
)

const sharedIn6 = "2001:db8:64::198.51.100.9"

func TestSection1_3_PortSetTo4(t *testing.T) {
	w := newTestWorker(t)
	for _, c := range []struct {
		name  string
		src   string
		port  uint16
		proto uint8
		owned bool
	}{
		{"first port", sharedA6, 1024, 17, true},
		{"last port", sharedA6, 2047, 17, true},
		{"below", sharedA6, 1023, 17, false},
		{"above", sharedA6, 2048, 17, false},
		{"the other's", sharedB6, 1030, 17, false},
		{"tcp", sharedB6, 2048, 6, true},
		{"tcp outside", sharedB6, 80, 6, false},
		{"udp-lite", sharedA6, 1030, 136, true},
		{"udp-lite outside", sharedA6, 1, 136, false},
		{"sctp", sharedA6, 1030, 132, true},
		{"sctp outside", sharedA6, 1, 132, false},
		{"dccp", sharedA6, 1030, 33, true},
		{"dccp outside", sharedA6, 1, 33, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l4 := make([]byte, 24)
			binary.BigEndian.PutUint16(l4, c.port)
			l4[12], l4[5], l4[6] = 5<<4, 24, 1
			in := hdr6{src: c.src, dst: server6, proto: c.proto}.packet(l4)
			if c.owned {
				wantVerdict(t, w, in, Forward4)
				return
			}
			wantTranslated(t, w, in, PortOutsideSet|Replied, error6(1, 1, 0, in))
		})
	}
	t.Run("protocol without ports", func(t *testing.T) {
		wantVerdict(t, w, hdr6{src: sharedA6, dst: server6, proto: 47}.packet(data(20)), ProtocolNotShareable)
	})
	t.Run("first fragment", func(t *testing.T) {
		in := hdr6{src: sharedA6, dst: server6, next: 44, ext: fragHdr(17, 0, true, 1)}
		wantVerdict(t, w, in.packet(udp(sharedA6, server6, 99, 1, data(8))), PortOutsideSet|Replied)
		wantVerdict(t, w, in.packet(udp(sharedA6, server6, 1030, 1, data(8))), Forward4)
	})
}

func TestSection1_3_PortSetTo6(t *testing.T) {
	w := newTestWorker(t)
	for _, c := range []struct {
		name string
		port uint16
		dst  string
	}{
		{"first port of A", 1024, sharedA6}, {"last port of A", 2047, sharedA6},
		{"first port of B", 2048, sharedB6}, {"last port of B", 3071, sharedB6},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 17}.packet(udp(server4, shared4, 53, c.port, data(5))), Forward6,
				hdr6{src: server6, dst: c.dst, proto: 17, hop: 63}.packet(udp(server6, c.dst, 53, c.port, data(5))))
			wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 6}.packet(tcp(server4, shared4, 53, c.port, data(5))), Forward6,
				hdr6{src: server6, dst: c.dst, proto: 6, hop: 63}.packet(tcp(server6, c.dst, 53, c.port, data(5))))
			wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 1}.packet(icmp4(8, 0, uint32(c.port)<<16, data(5))), Forward6,
				hdr6{src: server6, dst: c.dst, proto: 58, hop: 63}.packet(icmp6(server6, c.dst, 128, 0, uint32(c.port)<<16, data(5))))
		})
	}
	for _, port := range []uint16{0, 1023, 3072, 65535} {
		t.Run("nobody's", func(t *testing.T) {
			w := newTestWorker(t)
			in := hdr4{src: server4, dst: shared4, proto: 17}.packet(udp(server4, shared4, 53, port, data(5)))
			wantTranslated(t, w, in, PortUnassigned|Replied, error4(3, 3, 0, in, 1))
			in = hdr4{src: server4, dst: shared4, proto: 6}.packet(tcp(server4, shared4, 53, port, data(5)))
			wantTranslated(t, w, in, PortUnassigned|Replied, error4(3, 3, 0, in, 2))
			wantVerdict(t, w, hdr4{src: server4, dst: shared4, proto: 1}.packet(icmp4(8, 0, uint32(port)<<16, nil)), PortUnassigned)
		})
	}
	t.Run("protocol without ports", func(t *testing.T) {
		wantVerdict(t, w, hdr4{src: server4, dst: shared4, proto: 47}.packet(data(20)), ProtocolNotShareable)
	})
}

func TestSection1_3_Errors(t *testing.T) {
	w := newTestWorker(t)
	q4 := func(sport uint16) []byte {
		return hdr4{src: shared4, dst: server4, proto: 17}.packet(udp(shared4, server4, sport, 53, data(9)))
	}
	in4 := func(quote []byte) []byte {
		return hdr4{src: router4, dst: shared4, proto: 1}.packet(icmp4(3, 1, 0, quote))
	}
	q6 := func(to string, dport uint16) []byte {
		return hdr6{src: server6, dst: to, proto: 17}.packet(udp(server6, to, 53, dport, data(9)))
	}
	in6 := func(from string, quote []byte) []byte {
		return hdr6{src: from, dst: server6, proto: 58}.packet(icmp6(from, server6, 1, 4, 0, quote))
	}
	for port, to := range map[uint16]string{1030: sharedA6, 2050: sharedB6} {
		inner := hdr6{src: to, dst: server6, proto: 17}.packet(udp(to, server6, port, 53, data(9)))
		wantTranslated(t, w, in4(q4(port)), Forward6,
			hdr6{src: router6, dst: to, proto: 58, hop: 63}.packet(icmp6(router6, to, 1, 0, 0, inner)))
	}
	echo := func(id uint32) []byte {
		return hdr4{src: shared4, dst: server4, proto: 1}.packet(icmp4(8, 0, id<<16, data(9)))
	}
	for _, c := range []struct {
		name    string
		in      []byte
		verdict Verdict
	}{
		{"4to6/quoted source port is nobody's", in4(q4(99)), PortUnassigned},
		{"4to6/quoted echo", in4(echo(1030)), Forward6},
		{"4to6/quoted echo is nobody's", in4(echo(99)), PortUnassigned},
		{"4to6/quote without port", in4(q4(1030)[:23]), Malformed},
		{"4to6/quote of no more than ports", in4(q4(1030)[:24]), Forward6},
		{"4to6/quoted later fragment", in4(hdr4{src: shared4, dst: server4, proto: 17, flags: 3}.packet(data(9))), FragmentUnknown},
		{"4to6/quoted protocol without ports", in4(hdr4{src: shared4, dst: server4, proto: 47}.packet(data(9))), ProtocolNotShareable},
		{"6to4/quoted destination port", in6(sharedA6, q6(sharedA6, 1030)), Forward4},
		{"6to4/not its port", in6(sharedA6, q6(sharedA6, 2050)), PortOutsideSet},
		{"6to4/about another's", in6(sharedA6, q6(sharedB6, 2050)), SpoofedSource},
		{"6to4/from a hop on the way", in6(inside6, q6(sharedB6, 2050)), Forward4},
		{"6to4/from a hop, not its port", in6(inside6, q6(sharedB6, 1030)), PortOutsideSet},
		{"6to4/quote without port", in6(sharedA6, q6(sharedA6, 1030)[:43]), Malformed},
		{"6to4/quote of no more than ports", in6(sharedA6, q6(sharedA6, 1030)[:44]), Forward4},
		{"6to4/quoted later fragment", in6(sharedA6, hdr6{src: server6, dst: sharedA6, next: 44, ext: fragHdr(17, 8, true, 1)}.packet(data(9))), FragmentUnknown},
		{"6to4/quoted protocol without ports", in6(sharedA6, hdr6{src: server6, dst: sharedA6, proto: 47}.packet(data(9))), ProtocolNotShareable},
	} {
		t.Run(c.name, func(t *testing.T) { wantVerdict(t, w, c.in, c.verdict) })
	}
}

// pingOut sends an echo request of a workload that shares its address.
func pingOut(t *testing.T, w *Worker, id uint16, d []byte) (request4 []byte) {
	t.Helper()
	p := packetOf(hdr6{src: sharedA6, dst: server6, proto: 58}.packet(icmp6(sharedA6, server6, 128, 0, uint32(id)<<16|5, d)))
	if v := w.Translate(p); v != Forward4 {
		t.Fatal(v)
	}
	if slowSum(p.Bytes()[20:]) != 0xffff {
		t.Fatalf("checksum of %x", p.Bytes())
	}
	return bytes.Clone(p.Bytes())
}

func TestSection1_3_Echo(t *testing.T) {
	w := newTestWorker(t)
	for _, n := range []int{0, 1, 8, 55, 56} {
		d := data(n)
		t.Run("inside the set", func(t *testing.T) {
			if b := pingOut(t, w, 1030, d); !bytes.Equal(b[20:], icmp4(8, 0, 1030<<16|5, d)) {
				t.Errorf("%x", b)
			}
		})
		t.Run("outside the set and back", func(t *testing.T) {
			b := pingOut(t, w, 7777, d)
			folded := binary.BigEndian.Uint16(b[24:])
			if folded != 1024+7777%1024 || len(b) != 28+n+8 || !bytes.Equal(b[28:28+n], d) {
				t.Fatalf("identifier %d, %d bytes", folded, len(b))
			}
			reply := icmp4(0, 0, uint32(folded)<<16|5, b[28:])
			wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 1}.packet(reply), Forward6,
				hdr6{src: server6, dst: sharedA6, proto: 58, hop: 63}.packet(icmp6(server6, sharedA6, 129, 0, 7777<<16|5, d)))
		})
		t.Run("trailer that is not ours", func(t *testing.T) {
			b := pingOut(t, w, 7777, d)
			for i := len(b) - 8; i < len(b); i++ {
				forged := bytes.Clone(b)
				forged[i] ^= 1
				reply := icmp4(0, 0, uint32(binary.BigEndian.Uint32(b[24:])), forged[28:])
				wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 1}.packet(reply), Forward6,
					hdr6{src: server6, dst: sharedA6, proto: 58, hop: 63}.packet(
						icmp6(server6, sharedA6, 129, 0, binary.BigEndian.Uint32(b[24:]), forged[28:])))
			}
		})
		t.Run("quoted in an error", func(t *testing.T) {
			b := pingOut(t, w, 7777, d)
			inner := hdr6{src: sharedA6, dst: server6, proto: 58, hop: 63}.packet(icmp6(sharedA6, server6, 128, 0, 7777<<16|5, d))
			wantTranslated(t, w, hdr4{src: router4, dst: shared4, proto: 1}.packet(icmp4(11, 0, 0, b)), Forward6,
				hdr6{src: router6, dst: sharedA6, proto: 58, hop: 63}.packet(icmp6(router6, sharedA6, 3, 0, 0, inner)))
		})
	}
	t.Run("another key", func(t *testing.T) {
		b := pingOut(t, w, 7777, data(8))
		other := newTestWorker(t, func(c *Config, _ *string) { c.Key[3] = 1 })
		reply := icmp4(0, 0, binary.BigEndian.Uint32(b[24:]), b[28:])
		wantTranslated(t, other, hdr4{src: server4, dst: shared4, proto: 1}.packet(reply), Forward6,
			hdr6{src: server6, dst: sharedA6, proto: 58, hop: 63}.packet(icmp6(server6, sharedA6, 129, 0, binary.BigEndian.Uint32(b[24:]), b[28:])))
	})
	t.Run("never for fragments", func(t *testing.T) {
		in := hdr6{src: sharedA6, dst: server6, next: 44, ext: fragHdr(58, 0, true, 1)}
		wantVerdict(t, w, in.packet(icmp6(sharedA6, server6, 128, 0, 7777<<16, data(64))), ICMPFragment)
	})
	t.Run("too big with its trailer", func(t *testing.T) {
		fits := hdr6{src: sharedA6, dst: server6, proto: 58}.packet(icmp6(sharedA6, server6, 128, 0, 7777<<16, data(1500-28-8)))
		wantVerdict(t, w, fits, Forward4)
		in := hdr6{src: sharedA6, dst: server6, proto: 58}.packet(icmp6(sharedA6, server6, 128, 0, 7777<<16, data(1500-28-7)))
		p := packetOf(in)
		if v := w.Translate(p); v != TooBig|Replied || p.Bytes()[40] != 2 {
			t.Fatal(v)
		}
		if mtu := binary.BigEndian.Uint32(p.Bytes()[44:]); int(mtu) >= len(in) {
			t.Errorf("MTU %d would not help a packet of %d bytes", mtu, len(in))
		}
	})
	t.Run("reply outside the set", func(t *testing.T) {
		wantVerdict(t, w, hdr6{src: sharedA6, dst: server6, proto: 58}.packet(icmp6(sharedA6, server6, 129, 0, 7777<<16, nil)), PortOutsideSet|Replied)
	})
	t.Run("request from outside with a trailer of ours", func(t *testing.T) {
		b := pingOut(t, w, 7777, nil)
		wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 1}.packet(b[20:]), Forward6,
			hdr6{src: server6, dst: sharedA6, proto: 58, hop: 63}.packet(icmp6(server6, sharedA6, 128, 0, binary.BigEndian.Uint32(b[24:]), b[28:])))
	})
}

func TestSection1_3_Identification(t *testing.T) {
	w := newTestWorker(t)
	ids := func(src string, port uint16) map[uint16]bool {
		seen := map[uint16]bool{}
		for id := range uint32(5000) {
			p := packetOf(hdr6{src: src, dst: server6, next: 44, ext: fragHdr(17, 0, true, id*77)}.packet(udp(src, server6, port, 1, data(8))))
			if v := w.Translate(p); v != Forward4 {
				t.Fatal(v)
			}
			seen[binary.BigEndian.Uint16(p.Bytes()[4:])] = true
			p = packetOf(udp6(src, server6))
			if src == sharedA6 && w.Translate(p) == Forward4 {
				seen[binary.BigEndian.Uint16(p.Bytes()[4:])] = true
			}
		}
		return seen
	}
	a, b := ids(sharedA6, 1030), ids(sharedB6, 2050)
	if len(a) < 1000 || len(b) < 1000 {
		t.Errorf("%d and %d identifications in use", len(a), len(b))
	}
	for id := range a {
		if b[id] {
			t.Fatalf("both use identification %d", id)
		}
	}
	// A later fragment goes with its first.
	h := hdr6{src: sharedA6, dst: server6, next: 44, ext: fragHdr(17, 0, true, 0xabcdef)}
	p := packetOf(h.packet(udp(sharedA6, server6, 1030, 1, data(8))))
	h.ext = fragHdr(17, 16, false, 0xabcdef)
	q := packetOf(h.packet(data(8)))
	if v, v2 := w.Translate(p), w.Translate(q); v != Forward4 || v2 != Forward4 || !bytes.Equal(p.Bytes()[4:6], q.Bytes()[4:6]) {
		t.Errorf("%v %x, %v %x", v, p.Bytes()[4:6], v2, q.Bytes()[4:6])
	}
}
