package translator

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

func addrText(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func addrBytes(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func TestSection3_Fields(t *testing.T) {
	w := newTestWorker(t)
	in := hdr6{src: work6, dst: server6, proto: 17, class: 0xb9, hop: 77, flow: 0xfffff}.packet(udp(work6, server6, 9, 8, data(33)))
	p := packetOf(in)
	if v := w.Translate(p); v != Forward4 {
		t.Fatal(v)
	}
	b := p.Bytes()
	for _, c := range []struct {
		row       string
		got, want []byte
	}{
		{"version and IHL", b[:1], []byte{0x45}},
		{"TOS", b[1:2], []byte{0xb9}},
		{"total length", b[2:4], []byte{0, 61}},
		{"identification", b[4:6], []byte{0, 1}},
		{"flags and offset", b[6:8], []byte{0, 0}},
		{"TTL", b[8:9], []byte{76}},
		{"protocol", b[9:10], []byte{17}},
		{"source", b[12:16], addrBytes(work4)},
		{"destination", b[16:20], addrBytes(server4)},
		{"upper layer", b[20:], udp(work4, server4, 9, 8, data(33))},
	} {
		t.Run(c.row, func(t *testing.T) {
			if !bytes.Equal(c.got, c.want) {
				t.Errorf("%x, want %x", c.got, c.want)
			}
		})
	}
	if slowSum(b[:20]) != 0xffff {
		t.Error("header checksum is wrong")
	}
	t.Run("TOS zero", func(t *testing.T) {
		w := newTestWorker(t, func(c *Config, _ *string) { c.ZeroTrafficClass = true })
		wantTranslated(t, w, in, Forward4,
			hdr4{src: work4, dst: server4, proto: 17, ttl: 76, id: 1}.packet(udp(work4, server4, 9, 8, data(33))))
	})
	t.Run("unknown protocol", func(t *testing.T) {
		for _, proto := range []uint8{2, 41, 47, 50, 59, 103, 253, 254} {
			p := packetOf(hdr6{src: work6, dst: server6, proto: proto}.packet(data(9)))
			if v := w.Translate(p); v != Forward4 || p.Bytes()[9] != proto || !bytes.Equal(p.Bytes()[20:], data(9)) {
				t.Errorf("protocol %d: %v, %x", proto, v, p.Bytes())
			}
		}
	})
	t.Run("untranslatable protocol", func(t *testing.T) {
		for _, proto := range []uint8{51, 135, 139, 140} {
			in := hdr6{src: work6, dst: server6, proto: proto}.packet(data(24))
			wantTranslated(t, w, in, ProtocolUntranslatable|Replied, error6(1, 1, 0, in))
			wantVerdict(t, w, hdr6{src: work6, dst: server6, next: 60, ext: []byte{proto, 0, 1, 4, 0, 0, 0, 0}}.packet(data(24)), ProtocolUntranslatable|Replied)
			wantVerdict(t, w, hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(proto, 0, true, 1)}.packet(data(24)), ProtocolUntranslatable|Replied)
			wantVerdict(t, w, hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(proto, 24, false, 1)}.packet(data(24)), ProtocolUntranslatable)
		}
	})
	t.Run("hop limit exceeded", func(t *testing.T) {
		for _, hop := range []uint8{0, 1} {
			in := bytes.Clone(in)
			in[7] = hop
			wantTranslated(t, w, in, HopLimitExceeded|Replied, error6(3, 0, 0, in))
		}
	})
	t.Run("untranslatable source", func(t *testing.T) {
		in := udp6("2001:db8:99::1", server6)
		wantTranslated(t, w, in, UntranslatableSource|Replied, error6(1, 5, 0, in))
	})
	t.Run("untranslatable destination", func(t *testing.T) {
		in := udp6(work6, "2001:db8:99::1")
		wantTranslated(t, w, in, UntranslatableDestination|Replied, error6(1, 0, 0, in))
	})
}

func TestSection3_DF(t *testing.T) {
	for _, c := range []struct {
		name string
		size int // of the IPv4 packet
		df   bool
	}{{"1260", 1260, false}, {"1261", 1261, true}, {"1500", 1500, true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t)
			want := hdr4{src: work4, dst: server4, proto: 17, ttl: 63, id: 1}
			if c.df {
				want.id, want.flags = 0, 0x4000
			}
			d := data(c.size - 28)
			wantTranslated(t, w, hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 1, 2, d)), Forward4,
				want.packet(udp(work4, server4, 1, 2, d)))
		})
	}
}

func TestSection3_TooBig(t *testing.T) {
	for _, c := range []struct {
		name      string
		mtu4      int
		size      int // of the IPv4 packet
		mtu       uint32
		fragment  bool
		wantReply bool
	}{
		{"fits", 1500, 1500, 0, false, false},
		{"one too many", 1500, 1501, 1520, false, true},
		{"never under 1280", 1240, 1300, 1280, false, true},
		{"DF=0 goes on", 600, 1260, 0, false, false},
		{"fragment goes on", 600, 1400, 0, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t, func(cf *Config, _ *string) { cf.MTU4 = c.mtu4 })
			h := hdr6{src: work6, dst: server6, proto: 17}
			if c.fragment {
				h.ext, h.next = fragHdr(17, 0, true, 5), 44
			}
			in := h.packet(udp(work6, server6, 1, 2, data(c.size-28)))
			if !c.wantReply {
				wantVerdict(t, w, in, Forward4)
				return
			}
			wantTranslated(t, w, in, TooBig|Replied, error6(2, 0, c.mtu, in))
		})
	}
	t.Run("longer than IPv4 can say", func(t *testing.T) {
		w := newTestWorker(t)
		in := hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 0, true, 5)}.packet(udp(work6, server6, 1, 2, data(65519)))
		wantVerdict(t, w, in, TooBig|Replied)
	})
}

func TestSection3_Identification(t *testing.T) {
	w := newTestWorker(t)
	seen := map[uint16]int{}
	for range 70000 {
		p := packetOf(udp6(work6, server6))
		if v := w.Translate(p); v != Forward4 {
			t.Fatal(v)
		}
		seen[binary.BigEndian.Uint16(p.Bytes()[4:])]++
	}
	if seen[0] != 0 || len(seen) != 65535 {
		t.Errorf("%d identifications, 0 %d times", len(seen), seen[0])
	}
	other := w.t.NewWorker()
	p, q := packetOf(udp6(work6, server6)), packetOf(udp6(work6, server6))
	w.Translate(p)
	other.Translate(q)
	if bytes.Equal(p.Bytes()[4:6], q.Bytes()[4:6]) {
		t.Error("two workers gave the same identification")
	}
}

func TestSection3_Fragments(t *testing.T) {
	w := newTestWorker(t)
	l6, l4 := udp(work6, server6, 1, 2, data(100)), udp(work4, server4, 1, 2, data(100))
	for _, c := range []struct {
		name     string
		from, to int
		more     bool
		flags    uint16
	}{
		{"first", 0, 64, true, 0x2000},
		{"middle", 64, 96, true, 0x2000 | 8},
		{"last", 96, 108, false, 12},
		{"atomic", 0, 108, false, 0},
		{"length no multiple of 8", 64, 93, true, 0x2000 | 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, c.from, c.more, 0x12345678)}
			out := hdr4{src: work4, dst: server4, proto: 17, ttl: 63, id: 0x5678, flags: c.flags}
			wantTranslated(t, w, in.packet(l6[c.from:c.to]), Forward4, out.packet(l4[c.from:c.to]))
		})
	}
	m := icmp6(work6, server6, 128, 0, 7, data(100))
	t.Run("icmp", func(t *testing.T) {
		for _, ext := range [][]byte{fragHdr(58, 0, true, 1), fragHdr(58, 8, false, 1)} {
			wantVerdict(t, w, hdr6{src: work6, dst: server6, next: 44, ext: ext}.packet(m[:64]), ICMPFragment)
		}
	})
	t.Run("atomic icmp", func(t *testing.T) {
		in := hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(58, 0, false, 0x10007)}
		wantTranslated(t, w, in.packet(m), Forward4,
			hdr4{src: work4, dst: server4, proto: 1, ttl: 63, id: 7}.packet(icmp4(8, 0, 7, data(100))))
	})
	t.Run("atomic and long", func(t *testing.T) {
		d := data(1400)
		in := hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 0, false, 9)}
		wantTranslated(t, w, in.packet(udp(work6, server6, 1, 2, d)), Forward4,
			hdr4{src: work4, dst: server4, proto: 17, ttl: 63, id: 9}.packet(udp(work4, server4, 1, 2, d)))
	})
}

func TestSection3_ExtensionHeaders(t *testing.T) {
	pad := func(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	routing := func(next, left uint8) []byte { return []byte{next, 0, 4, left, 0, 0, 0, 0} }
	chain := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	times := func(n int) (b []byte) {
		for i := range n {
			next := uint8(60)
			if i == n-1 {
				next = 17
			}
			b = append(b, pad(next)...)
		}
		return b
	}
	l6 := udp(work6, server6, 1, 2, data(20))
	for _, c := range []struct {
		name    string
		next    uint8
		ext     []byte
		verdict Verdict
		typ     uint8
		code    uint8
		pointer uint32
	}{
		{"hop-by-hop", 0, pad(17), Forward4, 0, 0, 0},
		{"destination options", 60, pad(17), Forward4, 0, 0, 0},
		{"long", 60, append([]byte{17, 2, 1, 20}, make([]byte, 20)...), Forward4, 0, 0, 0},
		{"routing, used up", 43, routing(17, 0), Forward4, 0, 0, 0},
		{"all of them", 0, chain(pad(60), pad(43), routing(60, 0), pad(17)), Forward4, 0, 0, 0},
		{"routing, segments left", 43, routing(17, 1), RoutingHeader | Replied, 4, 0, 43},
		{"routing behind another", 0, chain(pad(43), routing(17, 9)), RoutingHeader | Replied, 4, 0, 51},
		{"behind the fragment header", 44, chain(fragHdr(60, 0, true, 1), pad(17)), HeaderBehindFragment | Replied, 1, 1, 0},
		{"behind an atomic one", 44, chain(fragHdr(43, 0, false, 1), routing(17, 0)), HeaderBehindFragment | Replied, 1, 1, 0},
		{"fragment header twice", 44, chain(fragHdr(44, 0, false, 1), fragHdr(17, 0, false, 1)), HeaderBehindFragment | Replied, 1, 1, 0},
		{"behind a later fragment's", 44, chain(fragHdr(60, 8, true, 1), pad(17)), HeaderBehindFragment, 0, 0, 0},
		{"before the fragment header", 60, chain(pad(44), fragHdr(17, 0, false, 0)), Forward4, 0, 0, 0},
		{"eight", 60, times(8), Forward4, 0, 0, 0},
		{"nine", 60, times(9), Malformed, 0, 0, 0},
		{"runs past the packet", 60, []byte{17, 9, 0, 0, 0, 0, 0, 0}, Malformed, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t)
			in := hdr6{src: work6, dst: server6, next: c.next, ext: c.ext}.packet(l6)
			switch {
			case c.verdict == Forward4:
				want := hdr4{src: work4, dst: server4, proto: 17, ttl: 63, id: 1}
				if c.name == "before the fragment header" {
					want.id = 0
				}
				wantTranslated(t, w, in, Forward4, want.packet(udp(work4, server4, 1, 2, data(20))))
			case c.verdict.Replied():
				wantTranslated(t, w, in, c.verdict, error6(c.typ, c.code, c.pointer, in))
			default:
				wantVerdict(t, w, in, c.verdict)
			}
		})
	}
	t.Run("ends with the packet", func(t *testing.T) {
		w := newTestWorker(t)
		wantVerdict(t, w, hdr6{src: work6, dst: server6, next: 60, ext: pad(60)}.packet(nil), Malformed)
		wantVerdict(t, w, hdr6{src: work6, dst: server6, next: 60, ext: pad(59)}.packet(nil), Forward4)
	})
}
