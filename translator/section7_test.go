package translator

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestSection7_Malformed(t *testing.T) {
	w := newTestWorker(t)
	udp4, udp6, d := udp4(server4, work4), udp6(work6, server6), data(30)
	set := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		if b[0]>>4 == 4 && len(b) >= 20 {
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], ^slowSum(b[:min(len(b), max(20, int(b[0]&15)*4))]))
		}
		return b
	}
	h4 := hdr4{src: server4, dst: work4}
	with4 := func(proto uint8, l4 []byte) []byte { h := h4; h.proto = proto; return h.packet(l4) }
	h6 := hdr6{src: work6, dst: server6}
	with6 := func(proto uint8, l4 []byte) []byte { h := h6; h.proto = proto; return h.packet(l4) }
	for _, c := range []struct {
		name string
		in   []byte
	}{
		{"one byte", []byte{0x45}},
		{"ipv4/19 bytes", udp4[:19]},
		{"ipv4/version 5", set(udp4, 0, 0x55)},
		{"ipv4/version 0", set(udp4, 0, 0x05)},
		{"ipv4/IHL 4", set(udp4, 0, 0x44)},
		{"ipv4/IHL 0", set(udp4, 0, 0x40)},
		{"ipv4/IHL past the end", set(udp4, 0, 0x4f)},
		{"ipv4/total length past the end", set(udp4, 3, udp4[3]+1)},
		{"ipv4/total length under IHL", set(udp4, 3, 19)},
		{"ipv4/total length 0", set(udp4, 3, 0)},
		{"ipv6/39 bytes", udp6[:39]},
		{"ipv6/payload past the end", set(udp6, 5, udp6[5]+1)},
		{"tcp4/no header", with4(6, nil)},
		{"tcp4/19 bytes", with4(6, tcp(server4, work4, 1, 2, nil)[:19])},
		{"tcp4/data offset 4", with4(6, set(tcp(server4, work4, 1, 2, d), 12, 4<<4))},
		{"tcp4/data offset past the end", with4(6, set(tcp(server4, work4, 1, 2, nil), 12, 6<<4))},
		{"tcp6/19 bytes", with6(6, tcp(work6, server6, 1, 2, nil)[:19])},
		{"tcp6/data offset 4", with6(6, set(tcp(work6, server6, 1, 2, d), 12, 4<<4))},
		{"tcp6/data offset past the end", with6(6, set(tcp(work6, server6, 1, 2, nil), 12, 6<<4))},
		{"udp4/7 bytes", with4(17, udp(server4, work4, 1, 2, nil)[:7])},
		{"udp4/length past the end", with4(17, set(udp(server4, work4, 1, 2, nil), 5, 9))},
		{"udp4/length 7", with4(17, set(udp(server4, work4, 1, 2, d), 5, 7))},
		{"udp6/7 bytes", with6(17, udp(work6, server6, 1, 2, nil)[:7])},
		{"udp6/length past the end", with6(17, set(udp(work6, server6, 1, 2, nil), 5, 9))},
		{"icmp4/7 bytes", with4(1, icmp4(8, 0, 0, nil)[:7])},
		{"icmp4/nothing", with4(1, nil)},
		{"icmp6/7 bytes", with6(58, icmp6(work6, server6, 128, 0, 0, nil)[:7])},
		{"icmp6/nothing", with6(58, nil)},
		{"udp-lite4/7 bytes", with4(136, d[:7])},
		{"dccp4/11 bytes", with4(33, d[:11])},
		{"sctp4/11 bytes", with4(132, d[:11])},
		{"tiny first fragment", hdr4{src: server4, dst: work4, proto: 6, flags: 0x2000}.packet(tcp(server4, work4, 1, 2, nil)[:16])},
	} {
		t.Run(c.name, func(t *testing.T) { wantVerdict(t, w, c.in, Malformed) })
	}
}

// Of a fragment that reaches past the longest datagram, what we cut off would
// start at offset 0 again, and hide a second beginning.
func TestSection7_FragmentEnd(t *testing.T) {
	w := newTestWorker(t)
	for end, want := range map[int]Verdict{65528: Forward6, 65535: Forward6, 65536: Malformed, 65600: Malformed, 66935: Malformed} {
		for _, flags := range []uint16{0x1fff, 0x1f40, 0x3f40} {
			n := end - int(flags&0x1fff)*8
			if n < 1 {
				continue
			}
			in := hdr4{src: server4, dst: work4, proto: 17, flags: flags, id: 7}
			p := packetOf(in.packet(data(n)))
			if v := w.Translate(p); v != want {
				t.Errorf("end %d, offset %d: %v, want %v", end, flags&0x1fff, v, want)
			} else if w.Fragments() {
				checkFragments(t, w, p, v)
			}
			ext := fragHdr(17, int(flags&0x1fff)*8, flags&0x2000 != 0, 7)
			in6 := hdr6{src: work6, dst: server6, next: 44, ext: ext}.packet(data(n))
			wantVerdict(t, w, in6, map[Verdict]Verdict{Forward6: Forward4, Malformed: Malformed}[want])
		}
	}
}

func TestSection7_BytesBeyond(t *testing.T) {
	w := newTestWorker(t)
	in4 := hdr4{src: server4, dst: work4, proto: 17}.packet(udp(server4, work4, 1, 2, data(7)))
	want := hdr6{src: server6, dst: work6, proto: 17, hop: 63}.packet(udp(server6, work6, 1, 2, data(7)))
	in6 := hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, 128, 0, 1, data(7)))
	want4 := hdr4{src: work4, dst: server4, proto: 1, ttl: 63, id: 1}.packet(icmp4(8, 0, 1, data(7)))
	wantTranslated(t, w, append(in4, 1, 2, 3), Forward6, want)
	wantTranslated(t, w, append(in6, 1, 2, 3), Forward4, want4)
}

// A caller that gives too little room, or nonsense, gets a drop and no panic.
func TestSection7_NoRoom(t *testing.T) {
	w := newTestWorker(t)
	in := udp4(server4, work4)
	for _, p := range []*Packet{
		{Buf: bytes.Clone(in), Start: 0, End: len(in)},
		{Buf: append(make([]byte, Headroom), in...), Start: Headroom, End: Headroom + len(in)},
		{Buf: make([]byte, 400), Start: 200, End: 200},
		{Buf: make([]byte, 400), Start: 200, End: 199},
		{},
	} {
		if v := w.Translate(p); v != Malformed {
			t.Error(v)
		}
	}
	p := packetOf(hdr4{src: server4, dst: work4, proto: 17}.packet(udp(server4, work4, 1, 2, data(2000))))
	if v := w.Translate(p); v != Forward6 || w.NextFragment(p, &Packet{Buf: make([]byte, 1000)}) {
		t.Error(v)
	}
	if _, ok := w.NextHeld(&Packet{}); ok {
		t.Error("held")
	}
}
