package translator

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

const dropIt = 255

// quoted4 and quoted6 are the same packet on both sides: one that the workload
// sent (out), or one that was sent to it.
func quoted4(out bool, n int) []byte {
	if out {
		return hdr4{src: work4, dst: server4, proto: 17, ttl: 9, flags: 0x4000}.packet(udp(work4, server4, 1030, 53, data(n)))
	}
	return hdr4{src: server4, dst: work4, proto: 17, ttl: 9, flags: 0x4000}.packet(udp(server4, work4, 53, 1030, data(n)))
}

func quoted6(out bool, n int) []byte {
	if out {
		return hdr6{src: work6, dst: server6, proto: 17, hop: 9}.packet(udp(work6, server6, 1030, 53, data(n)))
	}
	return hdr6{src: server6, dst: work6, proto: 17, hop: 9}.packet(udp(server6, work6, 53, 1030, data(n)))
}

func from4(typ, code uint8, rest uint32, quote []byte) []byte {
	return hdr4{src: router4, dst: work4, proto: 1}.packet(icmp4(typ, code, rest, quote))
}

func to6(typ, code uint8, rest uint32, quote []byte) []byte {
	return hdr6{src: router6, dst: work6, proto: 58, hop: 63}.packet(icmp6(router6, work6, typ, code, rest, quote))
}

func from6(typ, code uint8, rest uint32, quote []byte) []byte {
	return hdr6{src: work6, dst: router6, proto: 58}.packet(icmp6(work6, router6, typ, code, rest, quote))
}

func TestSection6_Informational(t *testing.T) {
	w := newTestWorker(t)
	for _, c := range []struct{ v4, v6 uint8 }{{8, 128}, {0, 129}} {
		t.Run(fmt.Sprintf("%d %d", c.v4, c.v6), func(t *testing.T) {
			for n := range 5 {
				wantTranslated(t, w, hdr4{src: server4, dst: work4, proto: 1}.packet(icmp4(c.v4, 0, 0x12345678, data(n))), Forward6,
					hdr6{src: server6, dst: work6, proto: 58, hop: 63}.packet(icmp6(server6, work6, c.v6, 0, 0x12345678, data(n))))
				p := packetOf(hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, c.v6, 0, 0x12345678, data(n))))
				if v := w.Translate(p); v != Forward4 || !bytes.Equal(p.Bytes()[20:], icmp4(c.v4, 0, 0x12345678, data(n))) {
					t.Errorf("%v: %x", v, p.Bytes())
				}
			}
		})
	}
	t.Run("long", func(t *testing.T) {
		p := packetOf(hdr4{src: server4, dst: work4, proto: 1, id: 3}.packet(icmp4(8, 0, 1, data(2000))))
		if v := w.Translate(p); v != Forward6 || !w.Fragments() {
			t.Fatal(v)
		}
		wantPacket(t, p, hdr6{src: server6, dst: work6, hop: 63, next: 44, ext: fragHdr(58, 0, false, 3)}.packet(icmp6(server6, work6, 128, 0, 1, data(2000))))
	})
	t.Run("others 4to6", func(t *testing.T) {
		for typ := range 256 {
			for _, code := range []uint8{0, 1} {
				switch typ {
				case 3, 11, 12:
					continue
				case 8, 0:
					if code == 0 {
						continue
					}
				}
				wantVerdict(t, w, from4(uint8(typ), code, 0, data(28)), ICMPUntranslatable)
			}
		}
	})
	t.Run("others 6to4", func(t *testing.T) {
		for typ := range 256 {
			for _, code := range []uint8{0, 1} {
				if typ >= 1 && typ <= 4 || code == 0 && (typ == 128 || typ == 129) {
					continue
				}
				wantVerdict(t, w, from6(uint8(typ), code, 0, data(48)), ICMPUntranslatable)
			}
		}
	})
	t.Run("the other family's", func(t *testing.T) {
		wantVerdict(t, w, hdr4{src: server4, dst: work4, proto: 58}.packet(data(20)), ICMPUntranslatable)
		wantVerdict(t, w, hdr6{src: work6, dst: server6, proto: 1}.packet(data(20)), ICMPUntranslatable)
	})
}

func TestSection6_ErrorsTo6(t *testing.T) {
	type row struct {
		typ, code uint8
		in        uint32
		typ6      uint8
		code6     uint8
		out       uint32
	}
	var rows []row
	for _, code := range []uint8{0, 1, 5, 6, 7, 8, 11, 12} {
		rows = append(rows, row{3, code, 0, 1, 0, 0})
	}
	for _, code := range []uint8{9, 10, 13, 15} {
		rows = append(rows, row{3, code, 0, 1, 1, 0})
	}
	rows = append(rows, row{3, 2, 0, 4, 1, 6}, row{3, 3, 0, 1, 4, 0}, row{3, 4, 1400, 2, 0, 1420}, row{3, 14, 0, dropIt, 0, 0})
	for code := 16; code < 256; code++ {
		rows = append(rows, row{3, uint8(code), 0, dropIt, 0, 0})
	}
	for code := range 256 {
		rows = append(rows, row{11, uint8(code), 0, 3, uint8(code), 0})
	}
	for code := range 256 {
		if code != 0 && code != 2 {
			rows = append(rows, row{12, uint8(code), 0, dropIt, 0, 0})
		}
	}
	pointers := map[int]uint32{0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24}
	for pointer := range 256 {
		for _, code := range []uint8{0, 2} {
			out, ok := pointers[pointer]
			r := row{12, code, uint32(pointer) << 24, 4, 0, out}
			if !ok {
				r.typ6 = dropIt
			}
			rows = append(rows, r)
		}
	}
	for _, typ := range []uint8{4, 5, 9, 10} {
		rows = append(rows, row{typ, 0, 0, dropIt, 0, 0})
	}
	w := newTestWorker(t)
	for _, r := range rows {
		t.Run(fmt.Sprintf("%d-%d/%#x", r.typ, r.code, r.in), func(t *testing.T) {
			in := from4(r.typ, r.code, r.in, quoted4(true, 30))
			if r.typ6 == dropIt {
				wantVerdict(t, w, in, ICMPUntranslatable)
				return
			}
			wantTranslated(t, w, in, Forward6, to6(r.typ6, r.code6, r.out, quoted6(true, 30)))
		})
	}
}

func TestSection6_ErrorsTo4(t *testing.T) {
	type row struct {
		typ, code uint8
		in        uint32
		typ4      uint8
		code4     uint8
		out       uint32
	}
	rows := []row{{1, 0, 0, 3, 1, 0}, {1, 2, 0, 3, 1, 0}, {1, 3, 0, 3, 1, 0}, {1, 1, 0, 3, 10, 0}, {1, 4, 0, 3, 3, 0}, {4, 1, 6, 3, 2, 0}}
	for code := 5; code < 256; code++ {
		rows = append(rows, row{1, uint8(code), 0, dropIt, 0, 0})
	}
	for code := range 256 {
		rows = append(rows, row{2, uint8(code), 1400, 3, 4, 1380}, row{3, uint8(code), 0, 11, uint8(code), 0})
		if code > 1 {
			rows = append(rows, row{4, uint8(code), 0, dropIt, 0, 0})
		}
	}
	for pointer := range uint32(300) {
		r := row{4, 0, pointer, 12, 0, 0}
		switch {
		case pointer <= 1:
			r.out = pointer << 24
		case pointer == 4 || pointer == 5:
			r.out = 2 << 24
		case pointer == 6:
			r.out = 9 << 24
		case pointer == 7:
			r.out = 8 << 24
		case pointer >= 8 && pointer <= 23:
			r.out = 12 << 24
		case pointer >= 24 && pointer <= 39:
			r.out = 16 << 24
		default:
			r.typ4 = dropIt
		}
		rows = append(rows, r)
	}
	for _, typ := range []uint8{0, 5, 100, 127} {
		rows = append(rows, row{typ, 0, 0, dropIt, 0, 0})
	}
	w := newTestWorker(t)
	id := uint16(0)
	for _, r := range rows {
		t.Run(fmt.Sprintf("%d-%d/%d", r.typ, r.code, r.in), func(t *testing.T) {
			in := from6(r.typ, r.code, r.in, quoted6(false, 1300))
			if r.typ4 == dropIt {
				wantVerdict(t, w, in, ICMPUntranslatable)
				return
			}
			id++
			wantTranslated(t, w, in, Forward4, hdr4{src: work4, dst: router4, proto: 1, ttl: 63, id: id}.packet(
				icmp4(r.typ4, r.code4, r.out, quoted4(false, 1300)[:548])))
		})
	}
}

func TestSection6_MTUTo6(t *testing.T) {
	for _, c := range []struct {
		name           string
		reported, mtu4 int
		mtu6, quoted   int
		want           uint32
	}{
		{"reported + 20", 1400, 1500, 1500, 0, 1420},
		{"never under 1280", 576, 1500, 1500, 0, 1280},
		{"bounded by the IPv6 MTU", 9000, 9000, 1500, 0, 1500},
		{"bounded by the IPv4 MTU", 9000, 1400, 9000, 0, 1420},
		{"0: plateau 65535 is not below itself", 0, 65535, 65535, 65535, 32020},
		{"0: plateau 32000", 0, 65535, 65535, 32001, 32020},
		{"0: plateau 17914", 0, 65535, 65535, 32000, 17934},
		{"0: plateau 8166", 0, 65535, 65535, 17914, 8186},
		{"0: plateau 4352", 0, 65535, 65535, 8166, 4372},
		{"0: plateau 2002", 0, 65535, 65535, 4352, 2022},
		{"0: plateau 1492", 0, 65535, 65535, 1500, 1512},
		{"0: plateau 1006", 0, 65535, 65535, 1492, 1280},
		{"0: plateau 68", 0, 65535, 65535, 28, 1280},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t, func(cf *Config, _ *string) { cf.MTU4, cf.MTU6 = c.mtu4, c.mtu6 })
			if c.quoted == 0 {
				c.quoted = 58
			}
			quote := quoted4(true, c.quoted-28)
			p := packetOf(from4(3, 4, uint32(c.reported), quote[:min(len(quote), 548)]))
			if v := w.Translate(p); v != Forward6 {
				t.Fatal(v)
			}
			if got := binary.BigEndian.Uint32(p.Bytes()[44:]); got != c.want {
				t.Errorf("MTU %d, want %d", got, c.want)
			}
		})
	}
	for _, c := range [][2]int{{65536, 65535}, {1007, 1006}, {1006, 508}, {508, 296}, {297, 296}, {296, 68}, {69, 68}, {68, 68}, {20, 68}} {
		if got := plateau(c[0]); got != c[1] {
			t.Errorf("plateau(%d) = %d, want %d", c[0], got, c[1])
		}
	}
}

func TestSection6_MTUTo4(t *testing.T) {
	for _, c := range []struct {
		name       string
		reported   uint32
		mtu4, mtu6 int
		want       uint32
	}{
		{"reported - 20", 1400, 1500, 1500, 1380},
		{"bounded by the IPv4 MTU", 9000, 1400, 9000, 1400},
		{"bounded by the IPv6 MTU", 9000, 9000, 1500, 1480},
		{"huge", 0xffffffff, 65535, 65535, 65515},
		{"less than any IPv6 link has", 1279, 1500, 1500, 1260},
		{"what was believed as 552", 88, 1500, 1500, 1260},
		{"none", 0, 1500, 1500, 1260},
		{"the IPv4 side has less", 600, 576, 1500, 576},
		{"the least IPv6 MTU", 9000, 1500, 1280, 1260},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t, func(cf *Config, _ *string) { cf.MTU4, cf.MTU6 = c.mtu4, c.mtu6 })
			p := packetOf(from6(2, 0, c.reported, quoted6(false, 10)))
			if v := w.Translate(p); v != Forward4 {
				t.Fatal(v)
			}
			if got := binary.BigEndian.Uint32(p.Bytes()[24:]); got != c.want {
				t.Errorf("MTU %d, want %d", got, c.want)
			}
		})
	}
}

func TestSection6_Verified(t *testing.T) {
	w := newTestWorker(t)
	for _, in := range [][]byte{from4(3, 1, 0, quoted4(true, 9)), from6(1, 0, 0, quoted6(false, 9))} {
		in[len(in)-1] ^= 1
		wantVerdict(t, w, in, BadChecksum)
	}
}

func TestSection6_NeverTranslated(t *testing.T) {
	w := newTestWorker(t)
	for _, a := range []string{"fe80::1", "ff02::1", "::1"} {
		wantVerdict(t, w, hdr6{src: a, dst: server6, proto: 58}.packet(icmp6(a, server6, 1, 0, 0, quoted6(false, 9))), NeverTranslated)
		wantVerdict(t, w, hdr6{src: work6, dst: a, proto: 58}.packet(icmp6(work6, a, 1, 0, 0, quoted6(false, 9))), NeverTranslated)
		for _, q := range []hdr6{{src: a, dst: work6, proto: 17}, {src: server6, dst: a, proto: 17}} {
			wantVerdict(t, w, from6(1, 0, 0, q.packet(data(20))), NeverTranslated)
		}
	}
}

// Errors are answered by nothing, whatever is wrong with them.
func TestSection6_NeverAnswered(t *testing.T) {
	w := newTestWorker(t)
	e4 := icmp4(3, 1, 0, quoted4(true, 9))
	wantVerdict(t, w, hdr4{src: router4, dst: work4, proto: 1, ttl: 1}.packet(e4), HopLimitExceeded)
	wantVerdict(t, newTestWorker(t, noPrefix), hdr4{src: router4, dst: "192.0.2.77", proto: 1}.packet(e4), UntranslatableDestination)
	wantVerdict(t, w, hdr4{src: router4, dst: work4, proto: 1, options: []byte{131, 7, 4, 1, 2, 3, 4, 0}}.packet(e4), SourceRoute)
	wantVerdict(t, w, hdr6{src: work6, dst: router6, proto: 58, hop: 1}.packet(icmp6(work6, router6, 1, 0, 0, quoted6(false, 9))), HopLimitExceeded)
	far := "2001:db8:99::1"
	wantVerdict(t, w, hdr6{src: work6, dst: far, proto: 58}.packet(icmp6(work6, far, 1, 0, 0, quoted6(false, 9))), UntranslatableDestination)
	wantVerdict(t, w, hdr6{src: work6, dst: router6, next: 43, ext: []byte{58, 0, 4, 1, 0, 0, 0, 0}}.packet(
		icmp6(work6, router6, 1, 0, 0, quoted6(false, 9))), RoutingHeader)
}

func TestSection6_SourcePool(t *testing.T) {
	pooled := func(c *Config, _ *string) {
		c.ICMPSource4 = netip.MustParsePrefix("203.0.113.64/29")
		c.ICMPSource6 = netip.MustParsePrefix("2001:db8:f::/112")
	}
	t.Run("6to4", func(t *testing.T) {
		in := func(hop string) []byte {
			return hdr6{src: hop, dst: server6, proto: 58}.packet(icmp6(hop, server6, 3, 0, 0, quoted6(false, 1300)[:1000]))
		}
		want := hdr4{src: own4, dst: server4, proto: 1, ttl: 63, id: 1}
		wantTranslated(t, newTestWorker(t), in(inside6), Forward4, want.packet(icmp4(11, 0, 0, quoted4(false, 1300)[:548])))
		w := newTestWorker(t, pooled)
		seen := map[string]bool{}
		for i := range 200 {
			hop := fmt.Sprintf("2001:db8:dead::%x", i+1)
			p, q := packetOf(in(hop)), packetOf(in(hop))
			w.Translate(p)
			w.Translate(q)
			src := addrText(p.Bytes()[12:16])
			if src != addrText(q.Bytes()[12:16]) {
				t.Fatal("one hop has two addresses")
			}
			if !netip.MustParsePrefix("203.0.113.64/29").Contains(netip.MustParseAddr(src)) {
				t.Fatal(src)
			}
			seen[src] = true
		}
		if len(seen) != 8 {
			t.Errorf("%d addresses of 8 in use", len(seen))
		}
	})
	t.Run("4to6 without a prefix", func(t *testing.T) {
		// The quoted destination must be mapped, or nobody can say what was sent.
		inner4 := hdr4{src: work4, dst: other4, proto: 17}.packet(udp(work4, other4, 1, 2, data(9)))
		inner6 := hdr6{src: work6, dst: other6, proto: 17}.packet(udp(work6, other6, 1, 2, data(9)))
		in := from4(11, 0, 0, inner4)
		wantTranslated(t, newTestWorker(t, noPrefix), in, Forward6,
			hdr6{src: own6, dst: work6, proto: 58, hop: 63}.packet(icmp6(own6, work6, 3, 0, 0, inner6)))
		p := packetOf(in)
		if v := newTestWorker(t, noPrefix, pooled).Translate(p); v != Forward6 ||
			!netip.MustParsePrefix("2001:db8:f::/112").Contains(netip.MustParseAddr(addrText(p.Bytes()[8:24]))) {
			t.Errorf("%v from %s", v, addrText(p.Bytes()[8:24]))
		}
	})
}
