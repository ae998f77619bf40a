package translator

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// partial puts the pseudo header's sum where the checksum stands, as a device
// hands packets over that it has not completed.
func partial(src, dst string, proto uint8, at int, l4 []byte) []byte {
	s := slowSum(pseudo(netip.MustParseAddr(src), netip.MustParseAddr(dst), proto, len(l4)))
	binary.BigEndian.PutUint16(l4[at:], s)
	return l4
}

func TestSection5_Superpackets(t *testing.T) {
	const big = 40000
	for _, c := range []struct {
		name       string
		proto      uint8
		gso4, gso6 uint8
		at, size   int
	}{
		{"tcp", 6, GSOTCPv4, GSOTCPv6, 16, 20},
		{"tcp ecn", 6, GSOTCPv4 | GSOECN, GSOTCPv6 | GSOECN, 16, 20},
		{"udp", 17, GSOUDPL4, GSOUDPL4, 6, 8},
	} {
		build := func(src, dst string) []byte {
			return partial(src, dst, c.proto, c.at, upper(src, dst, c.proto, c.at, c.size, data(big)))
		}
		offload := func(gso uint8, header int, hdrLen int) Offload {
			return Offload{Flags: FlagNeedsCsum, GSOType: gso, HdrLen: uint16(hdrLen), GSOSize: 1400,
				CsumStart: uint16(header), CsumOffset: uint16(c.at)}
		}
		for _, hdrLen := range []int{0, 54, 65535} { // not to be trusted
			t.Run(c.name+"/6to4", func(t *testing.T) {
				w := newTestWorker(t)
				p := packetOf(hdr6{src: work6, dst: server6, proto: c.proto}.packet(build(work6, server6)))
				p.Offload = offload(c.gso6, 40, hdrLen)
				if v := w.Translate(p); v != Forward4 {
					t.Fatal(v)
				}
				wantPacket(t, p, hdr4{src: work4, dst: server4, proto: c.proto, ttl: 63, flags: 0x4000}.packet(build(work4, server4)))
				if want := offload(c.gso4, 20, 20+c.size); p.Offload != want {
					t.Errorf("%+v, want %+v", p.Offload, want)
				}
			})
			t.Run(c.name+"/4to6", func(t *testing.T) {
				w := newTestWorker(t)
				p := packetOf(hdr4{src: server4, dst: work4, proto: c.proto, flags: 0x4000}.packet(build(server4, work4)))
				p.Offload = offload(c.gso4, 20, hdrLen)
				if v := w.Translate(p); v != Forward6 {
					t.Fatal(v)
				}
				wantPacket(t, p, hdr6{src: server6, dst: work6, proto: c.proto, hop: 63}.packet(build(server6, work6)))
				if want := offload(c.gso6, 40, 40+c.size); p.Offload != want {
					t.Errorf("%+v, want %+v", p.Offload, want)
				}
			})
		}
	}
}

func TestSection5_PartialChecksum(t *testing.T) {
	for _, c := range []struct {
		name  string
		proto uint8
		at    int
		size  int
	}{{"tcp", 6, 16, 20}, {"udp", 17, 6, 8}} {
		build := func(src, dst string) []byte {
			return partial(src, dst, c.proto, c.at, upper(src, dst, c.proto, c.at, c.size, data(100)))
		}
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorker(t)
			p := packetOf(hdr6{src: work6, dst: server6, proto: c.proto}.packet(build(work6, server6)))
			p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 40, CsumOffset: uint16(c.at)}
			if v := w.Translate(p); v != Forward4 || p.CsumStart != 20 || p.CsumOffset != uint16(c.at) || p.Flags != FlagNeedsCsum {
				t.Fatal(v, p.Offload)
			}
			wantPacket(t, p, hdr4{src: work4, dst: server4, proto: c.proto, ttl: 63, id: 1}.packet(build(work4, server4)))
			p = packetOf(hdr4{src: server4, dst: work4, proto: c.proto}.packet(build(server4, work4)))
			p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 20, CsumOffset: uint16(c.at)}
			if v := w.Translate(p); v != Forward6 || p.CsumStart != 40 || p.CsumOffset != uint16(c.at) || p.Flags != FlagNeedsCsum {
				t.Fatal(v, p.Offload)
			}
			wantPacket(t, p, hdr6{src: server6, dst: work6, proto: c.proto, hop: 63}.packet(build(server6, work6)))
		})
	}
	t.Run("udp sum of 0 is no missing checksum", func(t *testing.T) {
		w := newTestWorker(t)
		l4 := udp(server4, work4, 1, 2, data(10))
		l4[6], l4[7] = 0, 0
		p := packetOf(hdr4{src: server4, dst: work4, proto: 17}.packet(l4))
		p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 20, CsumOffset: 6}
		if v := w.Translate(p); v != Forward6 {
			t.Fatal(v)
		}
	})
	t.Run("headers moved by options and extension headers", func(t *testing.T) {
		w := newTestWorker(t)
		p := packetOf(hdr4{src: server4, dst: work4, proto: 17, options: []byte{1, 1, 1, 0}}.packet(
			partial(server4, work4, 17, 6, udp(server4, work4, 1, 2, data(10)))))
		p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 24, CsumOffset: 6}
		if v := w.Translate(p); v != Forward6 || p.CsumStart != 40 {
			t.Fatal(v, p.Offload)
		}
		wantPacket(t, p, hdr6{src: server6, dst: work6, proto: 17, hop: 63}.packet(partial(server6, work6, 17, 6, udp(server6, work6, 1, 2, data(10)))))
		p = packetOf(hdr6{src: work6, dst: server6, next: 60, ext: []byte{6, 0, 1, 4, 0, 0, 0, 0}}.packet(
			partial(work6, server6, 6, 16, tcp(work6, server6, 1, 2, data(3000)))))
		p.Offload = Offload{Flags: FlagNeedsCsum, GSOType: GSOTCPv6, GSOSize: 1000, CsumStart: 48, CsumOffset: 16}
		if v := w.Translate(p); v != Forward4 || p.CsumStart != 20 || p.HdrLen != 40 || p.GSOType != GSOTCPv4 {
			t.Fatal(v, p.Offload)
		}
	})
	t.Run("completed when fragmented", func(t *testing.T) {
		w := newTestWorker(t)
		p := packetOf(hdr4{src: server4, dst: work4, proto: 17}.packet(partial(server4, work4, 17, 6, udp(server4, work4, 1, 2, data(1400)))))
		p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 20, CsumOffset: 6}
		if v := w.Translate(p); v != Forward6 || !w.Fragments() || p.Offload != (Offload{}) {
			t.Fatal(v, p.Offload)
		}
		wantPacket(t, p, hdr6{src: server6, dst: work6, hop: 63, next: 44, ext: fragHdr(17, 0, false, 0)}.packet(udp(server6, work6, 1, 2, data(1400))))
	})
	t.Run("echo", func(t *testing.T) {
		w := newTestWorker(t)
		p := packetOf(hdr6{src: work6, dst: server6, proto: 58}.packet(partial(work6, server6, 58, 2, icmp6(work6, server6, 128, 0, 7, data(9)))))
		p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 40, CsumOffset: 2}
		if v := w.Translate(p); v != Forward4 || p.Bytes()[22] != 0 || p.Bytes()[23] != 0 {
			t.Fatalf("%v: the sum of no pseudo header is 0: %x", v, p.Bytes()[20:])
		}
		m := icmp4(8, 0, 7, data(9))
		m[2], m[3] = 0, 0
		p = packetOf(hdr4{src: server4, dst: work4, proto: 1}.packet(m))
		p.Offload = Offload{Flags: FlagNeedsCsum, CsumStart: 20, CsumOffset: 2}
		if v := w.Translate(p); v != Forward6 || p.CsumStart != 40 {
			t.Fatal(v, p.Offload)
		}
		wantPacket(t, p, hdr6{src: server6, dst: work6, proto: 58, hop: 63}.packet(partial(server6, work6, 58, 2, icmp6(server6, work6, 128, 0, 7, data(9)))))
	})
}

func TestSection5_SegmentSize(t *testing.T) {
	super := func(flags uint16, n int) *Packet {
		p := packetOf(hdr4{src: server4, dst: work4, proto: 6, flags: flags}.packet(tcp(server4, work4, 1, 2, data(n))))
		p.GSOType = GSOTCPv4
		return p
	}
	for _, c := range []struct {
		name    string
		flags   uint16
		size    uint16
		bytes   int
		verdict Verdict
	}{
		{"df, fits", 0x4000, 1440, 20000, Forward6},
		{"df, too big", 0x4000, 1441, 20000, TooBig | Replied},
		{"df, large size but short", 0x4000, 9000, 1440, Forward6},
		{"no df, fits", 0, 1220, 20000, Forward6},
		{"no df, segments would need fragments", 0, 1221, 20000, Segment},
		{"longest", 0x4000, 1400, 65495, Forward6},
	} {
		t.Run("4to6/"+c.name, func(t *testing.T) {
			w := newTestWorker(t)
			p := super(c.flags, c.bytes)
			p.GSOSize = c.size
			before := *p
			if v := w.Translate(p); v != c.verdict {
				t.Fatal(v)
			}
			if c.verdict == Segment {
				if p.Start != before.Start || p.End != before.End || p.Offload != before.Offload || w.Fragments() {
					t.Error("touched")
				}
				wantPacket(t, p, super(c.flags, c.bytes).Bytes())
			}
		})
	}
	for _, c := range []struct {
		name    string
		size    uint16
		bytes   int
		verdict Verdict
		df      bool
	}{
		{"df by segment", 1221, 20000, Forward4, true},
		{"no df by segment", 1220, 20000, Forward4, false},
		{"fits", 1460, 20000, Forward4, true},
		{"too big", 1461, 20000, TooBig | Replied, false},
		{"longest that IPv4 can say", 1400, 65495, Forward4, true},
		{"longer than IPv4 can say", 1400, 65496, Segment, false},
	} {
		t.Run("6to4/"+c.name, func(t *testing.T) {
			w := newTestWorker(t)
			p := packetOf(hdr6{src: work6, dst: server6, proto: 6}.packet(tcp(work6, server6, 1, 2, data(c.bytes))))
			p.Offload = Offload{GSOType: GSOTCPv6, GSOSize: c.size}
			if v := w.Translate(p); v != c.verdict {
				t.Fatal(v)
			}
			if c.verdict == Forward4 && (p.Bytes()[6] == 0x40) != c.df {
				t.Errorf("flags %#x", p.Bytes()[6])
			}
		})
	}
	t.Run("identifications for every segment", func(t *testing.T) {
		w := newTestWorker(t)
		p := packetOf(hdr6{src: work6, dst: server6, proto: 6}.packet(tcp(work6, server6, 1, 2, data(5000))))
		p.Offload = Offload{GSOType: GSOTCPv6, GSOSize: 1000}
		w.Translate(p)
		next := packetOf(udp6(work6, server6))
		w.Translate(next)
		if a, b := binary.BigEndian.Uint16(p.Bytes()[4:]), binary.BigEndian.Uint16(next.Bytes()[4:]); b-a != 5 {
			t.Errorf("identifications %d, then %d", a, b)
		}
	})
}

func TestSection5_BadOffload(t *testing.T) {
	for name, o := range map[string]Offload{
		"start elsewhere":   {Flags: FlagNeedsCsum, CsumStart: 41, CsumOffset: 16},
		"offset elsewhere":  {Flags: FlagNeedsCsum, CsumStart: 40, CsumOffset: 6},
		"other family":      {GSOType: GSOTCPv4, GSOSize: 1000},
		"other protocol":    {GSOType: GSOUDPL4, GSOSize: 1000},
		"fragments of UDP":  {GSOType: GSOUDP, GSOSize: 1000},
		"unknown":           {GSOType: 9, GSOSize: 1000},
		"size 0":            {GSOType: GSOTCPv6},
		"nothing, with ECN": {GSOType: GSOECN, GSOSize: 1000},
		"UDP with ECN":      {GSOType: GSOUDPL4 | GSOECN, GSOSize: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestWorker(t)
			p := packetOf(hdr6{src: work6, dst: server6, proto: 6}.packet(tcp(work6, server6, 1, 2, data(3000))))
			p.Offload = o
			if v := w.Translate(p); v != Malformed {
				t.Error(v)
			}
		})
	}
	t.Run("superpacket in fragments", func(t *testing.T) {
		w := newTestWorker(t)
		p := packetOf(hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(6, 0, true, 1)}.packet(tcp(work6, server6, 1, 2, data(3000))))
		p.Offload = Offload{GSOType: GSOTCPv6, GSOSize: 1000}
		if v := w.Translate(p); v != Malformed {
			t.Error(v)
		}
	})
}
