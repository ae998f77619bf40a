package translator

import (
	"bytes"
	"testing"
)

// error4 is the ICMPv4 error of ours about in, at most 576 bytes long.
func error4(typ, code uint8, rest uint32, in []byte, id uint16) []byte {
	src := addrText(in[12:16])
	return hdr4{src: own4, dst: src, proto: 1, ttl: 64, id: id}.packet(icmp4(typ, code, rest, in[:min(len(in), 576-28)]))
}

// error6 is the ICMPv6 error of ours about in, at most 1280 bytes long.
func error6(typ, code uint8, rest uint32, in []byte) []byte {
	src := addrText(in[8:24])
	return hdr6{src: own6, dst: src, proto: 58, hop: 64}.packet(icmp6(own6, src, typ, code, rest, in[:min(len(in), 1280-48)]))
}

func TestSection2_Fields(t *testing.T) {
	w := newTestWorker(t)
	in := hdr4{src: server4, dst: work4, proto: 17, tos: 0xb9, ttl: 77, flags: 0x4000}.packet(udp(server4, work4, 9, 8, data(33)))
	p := packetOf(in)
	if v := w.Translate(p); v != Forward6 {
		t.Fatal(v)
	}
	b := p.Bytes()
	for _, c := range []struct {
		row       string
		got, want []byte
	}{
		{"traffic class and flow label", b[:4], []byte{0x6b, 0x90, 0, 0}},
		{"payload length", b[4:6], []byte{0, 41}},
		{"next header", b[6:7], []byte{17}},
		{"hop limit", b[7:8], []byte{76}},
		{"source", b[8:24], addrBytes(server6)},
		{"destination", b[24:40], addrBytes(work6)},
		{"upper layer", b[40:], udp(server6, work6, 9, 8, data(33))},
	} {
		t.Run(c.row, func(t *testing.T) {
			if !bytes.Equal(c.got, c.want) {
				t.Errorf("%x, want %x", c.got, c.want)
			}
		})
	}
	t.Run("traffic class zero", func(t *testing.T) {
		w := newTestWorker(t, func(c *Config, _ *string) { c.ZeroTrafficClass = true })
		wantTranslated(t, w, in, Forward6,
			hdr6{src: server6, dst: work6, proto: 17, hop: 76}.packet(udp(server6, work6, 9, 8, data(33))))
	})
	t.Run("unknown protocol", func(t *testing.T) {
		for _, proto := range []uint8{2, 41, 47, 50, 59, 103, 253, 254} {
			wantTranslated(t, w, hdr4{src: server4, dst: work4, proto: proto}.packet(data(9)), Forward6,
				hdr6{src: server6, dst: work6, proto: proto, hop: 63}.packet(data(9)))
		}
	})
	t.Run("untranslatable protocol", func(t *testing.T) {
		for _, proto := range []uint8{51, 135, 139, 140} {
			in := hdr4{src: server4, dst: work4, proto: proto}.packet(data(24))
			wantTranslated(t, newTestWorker(t), in, ProtocolUntranslatable|Replied,
				hdr4{src: own4, dst: server4, proto: 1, id: 1}.packet(icmp4(3, 13, 0, in)))
			wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: proto, flags: 0x2000}.packet(data(24)), ProtocolUntranslatable|Replied)
			wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: proto, flags: 3}.packet(data(24)), ProtocolUntranslatable) // no later fragment is answered
		}
	})
	t.Run("IPv6 extension header", func(t *testing.T) {
		for _, proto := range []uint8{0, 43, 44, 60} { // each in front of an ICMPv6 too big, as IPv6 would read it
			payload := append([]byte{58, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 5, 0}, data(48)...)
			wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: proto}.packet(payload), Malformed)
			wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: proto, flags: 0x2000}.packet(payload), Malformed)
			wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: proto, flags: 9}.packet(payload), Malformed)
		}
	})
	t.Run("no payload", func(t *testing.T) {
		wantTranslated(t, w, hdr4{src: server4, dst: work4, proto: 47}.packet(nil), Forward6,
			hdr6{src: server6, dst: work6, proto: 47, hop: 63}.packet(nil))
	})
	for _, ttl := range []uint8{0, 1} {
		t.Run("hop limit exceeded", func(t *testing.T) {
			w := newTestWorker(t)
			in := bytes.Clone(in)
			in[8] = ttl
			in[10], in[11] = 0, 0
			c := ^slowSum(in[:20])
			in[10], in[11] = byte(c>>8), byte(c)
			wantTranslated(t, w, in, HopLimitExceeded|Replied, error4(11, 0, 0, in, 1))
		})
	}
	t.Run("unmapped", func(t *testing.T) {
		w := newTestWorker(t, noPrefix)
		in := udp4(other4, "198.51.100.77")
		wantTranslated(t, w, in, UntranslatableDestination|Replied, error4(3, 1, 0, in, 1))
	})
}

func TestSection2_Options(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []byte
		verdict Verdict
	}{
		{"none of interest", []byte{1, 1, 7, 7, 4, 0, 0, 0, 0, 0, 0, 0}, Forward6},
		{"router alert", []byte{148, 4, 0, 0}, Forward6},
		{"loose, unexpired", []byte{131, 7, 4, 1, 2, 3, 4, 0}, SourceRoute | Replied},
		{"strict, unexpired", []byte{1, 137, 7, 4, 1, 2, 3, 4}, SourceRoute | Replied},
		{"loose, expired", []byte{131, 7, 8, 1, 2, 3, 4, 0}, Forward6},
		{"strict, expired", []byte{137, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8, 0}, Forward6},
		{"behind the end", []byte{0, 131, 7, 4}, Forward6},
		{"no length", []byte{1, 1, 1, 7}, Malformed},
		{"length 0", []byte{7, 0, 0, 0}, Malformed},
		{"length 1", []byte{7, 1, 0, 0}, Malformed},
		{"too long", []byte{7, 5, 0, 0}, Malformed},
		{"route without pointer", []byte{131, 2, 0, 0}, Malformed},
		{"route that points at itself", []byte{131, 7, 3, 1, 2, 3, 4, 0}, Malformed},
		{"strict, pointer 0", []byte{1, 137, 7, 0, 1, 2, 3, 4}, Malformed},
		{"behind a good one", []byte{131, 7, 8, 1, 2, 3, 4, 137, 3, 1, 0, 0}, Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t)
			d := data(30)
			in := hdr4{src: server4, dst: work4, proto: 17, options: c.options}.packet(udp(server4, work4, 1, 2, d))
			switch c.verdict {
			case Forward6:
				wantTranslated(t, w, in, Forward6, hdr6{src: server6, dst: work6, proto: 17, hop: 63}.packet(udp(server6, work6, 1, 2, d)))
			case Malformed:
				wantVerdict(t, w, in, Malformed)
			default:
				wantTranslated(t, w, in, c.verdict, error4(3, 5, 0, in, 1))
			}
		})
	}
}

func TestSection2_DF1(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int // of the IPv4 packet
		flags   uint16
		verdict Verdict
		mtu     uint32
	}{
		{"fits", 1480, 0x4000, Forward6, 0},
		{"one too many", 1481, 0x4000, TooBig | Replied, 1480},
		{"fragment fits", 1472, 0x6000, Forward6, 0},
		{"fragment too big", 1473, 0x6000, TooBig | Replied, 1472},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t)
			in := hdr4{src: server4, dst: work4, proto: 17, flags: c.flags}.packet(udp(server4, work4, 1, 2, data(c.size-28)))
			if c.verdict == Forward6 {
				wantVerdict(t, w, in, Forward6)
				if w.Fragments() {
					t.Error("must not be fragmented")
				}
				return
			}
			wantTranslated(t, w, in, c.verdict, error4(3, 4, c.mtu, in, 1))
		})
	}
}

func TestSection2_DF0(t *testing.T) {
	for _, c := range []struct {
		name      string
		lowest    int
		size      int // of the IPv4 packet
		fragments []int
	}{
		{"short: no fragment header", 1280, 1260, nil},
		{"long", 1280, 1261, []int{1280, 48 + 9}},
		{"longer", 1280, 3000, []int{1280, 1280, 48 + 2980 - 2*1232}},
		{"multiple of the unit", 1280, 20 + 2*1232, []int{1280, 1280}},
		{"another bound", 1407, 3000, []int{1400, 1400, 48 + 2980 - 2*1352}},
		{"longest", 1280, 65535, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t, func(cf *Config, _ *string) { cf.LowestMTU6 = c.lowest })
			d := data(c.size - 28)
			in := hdr4{src: server4, dst: work4, proto: 17, id: 0xabcd}.packet(udp(server4, work4, 1, 2, d))
			l4 := udp(server6, work6, 1, 2, d)
			p := packetOf(in)
			if v := w.Translate(p); v != Forward6 {
				t.Fatal(v)
			}
			if c.size <= 1260 {
				if w.Fragments() {
					t.Error("Fragments")
				}
				wantPacket(t, p, hdr6{src: server6, dst: work6, proto: 17, hop: 63}.packet(l4))
				return
			}
			if !w.Fragments() {
				t.Fatal("no Fragments")
			}
			dst := &Packet{Buf: make([]byte, Headroom+c.lowest+Tailroom)}
			n, at := 0, 0
			for w.NextFragment(p, dst) {
				size := len(dst.Bytes()) - 48
				if c.fragments != nil && (n >= len(c.fragments) || c.fragments[n] != size+48) {
					t.Fatalf("fragment %d has %d bytes, want %v", n, size+48, c.fragments)
				}
				h := hdr6{src: server6, dst: work6, hop: 63, next: 44, ext: fragHdr(17, at, at+size < len(l4), 0xabcd)}
				wantPacket(t, dst, h.packet(l4[at:at+size]))
				n, at = n+1, at+size
			}
			if at != len(l4) || w.NextFragment(p, dst) {
				t.Errorf("fragments hold %d bytes of %d", at, len(l4))
			}
		})
	}
}

func TestSection2_Fragments(t *testing.T) {
	w := newTestWorker(t)
	whole := udp(server4, work4, 1, 2, data(100))
	whole6 := udp(server6, work6, 1, 2, data(100))
	ext := func(offset int, more bool) hdr6 {
		return hdr6{src: server6, dst: work6, hop: 63, next: 44, ext: fragHdr(17, offset, more, 0xbeef)}
	}
	in := hdr4{src: server4, dst: work4, proto: 17, id: 0xbeef}
	t.Run("first", func(t *testing.T) {
		in := in
		in.flags = 0x2000
		wantTranslated(t, w, in.packet(whole[:64]), Forward6, ext(0, true).packet(whole6[:64]))
	})
	t.Run("middle", func(t *testing.T) {
		in := in
		in.flags = 0x2000 | 8
		wantTranslated(t, w, in.packet(whole[64:96]), Forward6, ext(64, true).packet(whole[64:96]))
	})
	t.Run("last", func(t *testing.T) {
		in := in
		in.flags = 12
		wantTranslated(t, w, in.packet(whole[96:]), Forward6, ext(96, false).packet(whole[96:]))
	})
	t.Run("length no multiple of 8", func(t *testing.T) {
		in := in
		in.flags = 0x2000 | 8
		wantTranslated(t, w, in.packet(whole[64:93]), Forward6, ext(64, true).packet(whole[64:93]))
	})
	t.Run("tcp", func(t *testing.T) {
		in := in
		in.proto, in.flags = 6, 0x2000
		want := ext(0, true)
		want.ext[0] = 6
		wantTranslated(t, w, in.packet(tcp(server4, work4, 1, 2, data(80))[:88]), Forward6,
			want.packet(tcp(server6, work6, 1, 2, data(80))[:88]))
	})
	t.Run("icmp", func(t *testing.T) {
		m := icmp4(8, 0, 7, data(100))
		for _, flags := range []uint16{0x2000, 0x2000 | 3, 4} {
			in := in
			in.proto, in.flags = 1, flags
			wantVerdict(t, w, in.packet(m[:64]), ICMPFragment)
		}
	})
	t.Run("fragmented again", func(t *testing.T) {
		in := in
		in.flags = 0x2000 | 100
		payload := data(1400)
		p := packetOf(in.packet(payload))
		if v := w.Translate(p); v != Forward6 || !w.Fragments() {
			t.Fatal(v)
		}
		dst := &Packet{Buf: make([]byte, Headroom+1280+Tailroom)}
		w.NextFragment(p, dst)
		wantPacket(t, dst, ext(800, true).packet(payload[:1232]))
		w.NextFragment(p, dst)
		wantPacket(t, dst, ext(800+1232, true).packet(payload[1232:]))
		if w.NextFragment(p, dst) {
			t.Error("a third fragment")
		}
	})
}
