package translator

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestSection6_Quote(t *testing.T) {
	w := newTestWorker(t)
	d := data(40)
	id := uint16(0)
	for _, c := range []struct {
		name   string
		q4, q6 []byte // sent by the workload; 4to6
	}{
		{"tcp", hdr4{src: work4, dst: server4, proto: 6, tos: 8, ttl: 1, flags: 0x4000}.packet(tcp(work4, server4, 1, 2, d)),
			hdr6{src: work6, dst: server6, proto: 6, class: 8, hop: 1}.packet(tcp(work6, server6, 1, 2, d))},
		{"sctp", hdr4{src: work4, dst: server4, proto: 132}.packet(d), hdr6{src: work6, dst: server6, proto: 132}.packet(d)},
		{"unknown", hdr4{src: work4, dst: server4, proto: 99}.packet(d), hdr6{src: work6, dst: server6, proto: 99}.packet(d)},
		{"echo", hdr4{src: work4, dst: server4, proto: 1}.packet(icmp4(8, 0, 77, d)),
			hdr6{src: work6, dst: server6, proto: 58}.packet(icmp6(work6, server6, 128, 0, 77, d))},
		{"options", hdr4{src: work4, dst: server4, proto: 17, options: []byte{1, 1, 1, 1}}.packet(udp(work4, server4, 1, 2, d)),
			hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 1, 2, d))},
		{"first fragment", hdr4{src: work4, dst: server4, proto: 17, id: 9, flags: 0x2000}.packet(udp(work4, server4, 1, 2, d)),
			hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 0, true, 9)}.packet(udp(work6, server6, 1, 2, d))},
		{"later fragment", hdr4{src: work4, dst: server4, proto: 17, id: 9, flags: 3}.packet(d),
			hdr6{src: work6, dst: server6, next: 44, ext: fragHdr(17, 24, false, 9)}.packet(d)},
	} {
		for _, cut := range []int{0, 1, 4, 30, 36, len(d)} {
			in, want := c.q4[:len(c.q4)-cut], c.q6[:len(c.q6)-cut]
			if c.name == "unknown" && cut == len(d) {
				continue
			}
			t.Run(c.name+"/4to6", func(t *testing.T) {
				wantTranslated(t, w, from4(3, 1, 0, in), Forward6, to6(1, 0, 0, want))
			})
		}
		if c.name == "options" {
			continue
		}
		// The same pair the other way, with the ends swapped.
		q4, q6 := bytes.Clone(c.q4), bytes.Clone(c.q6)
		copy(q4[12:], addrBytes(server4))
		copy(q4[16:], addrBytes(work4))
		copy(q6[8:], addrBytes(server6))
		copy(q6[24:], addrBytes(work6))
		t.Run(c.name+"/6to4", func(t *testing.T) {
			p := packetOf(from6(1, 0, 0, q6))
			if v := w.Translate(p); v != Forward4 {
				t.Fatal(v)
			}
			if c.name != "first fragment" && c.name != "later fragment" && c.name != "tcp" {
				copy(q4[4:6], p.Bytes()[32:34]) // a quote's identification is anybody's guess
			}
			if c.name == "tcp" {
				q4[6] = 0
				copy(q4[4:6], p.Bytes()[32:34])
			}
			q4[10], q4[11] = 0, 0
			binary.BigEndian.PutUint16(q4[10:], ^slowSum(q4[:20]))
			id = binary.BigEndian.Uint16(p.Bytes()[4:])
			wantPacket(t, p, hdr4{src: work4, dst: router4, proto: 1, ttl: 63, id: id}.packet(icmp4(3, 1, 0, q4)))
		})
	}
	t.Run("bytes beyond its length", func(t *testing.T) {
		wantTranslated(t, w, from4(3, 1, 0, append(quoted4(true, 9), 1, 2, 3)), Forward6, to6(1, 0, 0, quoted6(true, 9)))
	})
	t.Run("udp without checksum", func(t *testing.T) {
		q4, q6 := quoted4(true, 9), quoted6(true, 9)
		q4[26], q4[27], q6[46], q6[47] = 0, 0, 0, 0
		wantTranslated(t, w, from4(3, 1, 0, q4), Forward6, to6(1, 0, 0, q6))
	})
}

func TestSection6_QuoteRefused(t *testing.T) {
	w := newTestWorker(t)
	q4 := func(h hdr4, l4 []byte) []byte {
		h.src, h.dst = work4, server4
		return from4(3, 1, 0, h.packet(l4))
	}
	q6 := func(h hdr6, l4 []byte) []byte {
		h.src, h.dst = server6, work6
		return from6(1, 0, 0, h.packet(l4))
	}
	for _, c := range []struct {
		name    string
		in      []byte
		verdict Verdict
	}{
		{"4to6/error in error", q4(hdr4{proto: 1}, icmp4(3, 1, 0, quoted4(true, 9))), ICMPErrorInError},
		{"4to6/redirect in error", q4(hdr4{proto: 1}, icmp4(5, 1, 0, quoted4(true, 9))), ICMPErrorInError},
		{"4to6/other icmp", q4(hdr4{proto: 1}, icmp4(13, 0, 0, data(12))), ICMPUntranslatable},
		{"4to6/icmp fragment", q4(hdr4{proto: 1, flags: 0x2000}, icmp4(8, 0, 0, data(12))), ICMPFragment},
		{"4to6/icmpv6", q4(hdr4{proto: 58}, data(20)), ICMPUntranslatable},
		{"4to6/hop-by-hop options", q4(hdr4{proto: 0}, data(20)), Malformed},
		{"4to6/routing header", q4(hdr4{proto: 43}, data(20)), Malformed},
		{"4to6/fragment header", q4(hdr4{proto: 44, flags: 0x2000}, data(20)), Malformed},
		{"4to6/destination options", q4(hdr4{proto: 60, flags: 5}, data(20)), Malformed},
		{"4to6/AH", q4(hdr4{proto: 51}, data(20)), ProtocolUntranslatable},
		{"4to6/mobility header", q4(hdr4{proto: 135}, data(20)), ProtocolUntranslatable},
		{"4to6/HIP", q4(hdr4{proto: 139}, data(20)), ProtocolUntranslatable},
		{"4to6/Shim6", q4(hdr4{proto: 140}, data(20)), ProtocolUntranslatable},
		{"4to6/ESP", q4(hdr4{proto: 50}, data(20)), Forward6},
		{"6to4/AH", q6(hdr6{proto: 51}, data(20)), ProtocolUntranslatable},
		{"6to4/AH behind options", q6(hdr6{next: 60, ext: []byte{51, 0, 1, 4, 0, 0, 0, 0}}, data(20)), ProtocolUntranslatable},
		{"6to4/HIP", q6(hdr6{proto: 139}, data(20)), ProtocolUntranslatable},
		{"6to4/ESP", q6(hdr6{proto: 50}, data(20)), Forward4},
		{"4to6/no header", from4(3, 1, 0, quoted4(true, 9)[:19]), Malformed},
		{"4to6/nothing", from4(3, 1, 0, nil), Malformed},
		{"4to6/other version", from4(3, 1, 0, quoted6(true, 9)), Malformed},
		{"4to6/options cut off", from4(3, 1, 0, hdr4{src: work4, dst: server4, proto: 17, options: make([]byte, 8)}.packet(nil)[:24]), Malformed},
		{"4to6/length less than header", q4(hdr4{proto: 17, length: 19}, data(20)), Malformed},
		{"4to6/not from anybody", from4(3, 1, 0, hdr4{src: "127.0.0.1", dst: server4, proto: 17}.packet(data(20))), NeverTranslated},
		{"6to4/error in error", q6(hdr6{proto: 58}, icmp6(server6, work6, 1, 0, 0, quoted6(false, 9))), ICMPErrorInError},
		{"6to4/other icmp", q6(hdr6{proto: 58}, icmp6(server6, work6, 135, 0, 0, data(20))), ICMPUntranslatable},
		{"6to4/icmp fragment", q6(hdr6{next: 44, ext: fragHdr(58, 0, true, 1)}, data(20)), ICMPFragment},
		{"6to4/icmpv4", q6(hdr6{proto: 1}, data(20)), ICMPUntranslatable},
		{"6to4/no header", from6(1, 0, 0, quoted6(false, 9)[:39]), Malformed},
		{"6to4/other version", from6(1, 0, 0, quoted4(false, 39)), Malformed},
		{"6to4/extension headers cut off", from6(1, 0, 0, hdr6{src: server6, dst: work6, next: 44, ext: fragHdr(17, 0, true, 1)}.packet(nil)[:47]), Malformed},
		{"6to4/too long for IPv4", q6(hdr6{proto: 17, length: 65516}, data(20)), Malformed},
		{"6to4/not to anybody", from6(1, 0, 0, hdr6{src: server6, dst: "2001:db8:99::1", proto: 17}.packet(data(20))), UntranslatableDestination},
	} {
		t.Run(c.name, func(t *testing.T) { wantVerdict(t, w, c.in, c.verdict) })
	}
}

// extension is an RFC 4884 extension structure of n bytes.
func extensionOf(n int) []byte {
	b := make([]byte, n)
	b[0] = 0x20
	binary.BigEndian.PutUint16(b[4:], uint16(n-4))
	copy(b[8:], data(n-8))
	binary.BigEndian.PutUint16(b[2:], ^slowSum(b))
	return b
}

func padTo(b []byte, n int) []byte { return append(b[:len(b):len(b)], make([]byte, n-len(b))...) }

func TestSection6_ExtensionsTo6(t *testing.T) {
	w := newTestWorker(t)
	ext := extensionOf(16)
	for _, c := range []struct {
		name    string
		typ     uint8
		code    uint8
		quote   []byte // with its padding
		ext     []byte
		want    []byte
		length6 uint32
	}{
		{"short quote", 11, 0, padTo(quoted4(true, 30), 128), ext, append(padTo(quoted6(true, 30), 128), ext...), 16},
		{"quote that fills", 11, 0, quoted4(true, 132), ext, append(padTo(quoted6(true, 132), 184), ext...), 23},
		{"unreachable", 3, 1, padTo(quoted4(true, 30), 128), ext, append(padTo(quoted6(true, 30), 128), ext...), 16},
		{"big extension", 11, 0, quoted4(true, 500), extensionOf(600),
			append(bytes.Clone(quoted6(true, 500)[:548]), 0, 0, 0, 0), 69},
		{"does not fit", 11, 0, padTo(quoted4(true, 30), 128), extensionOf(1200), quoted6(true, 30), 0},
		{"not allowed in too big", 3, 4, padTo(quoted4(true, 30), 128), ext, quoted6(true, 30), 0},
		{"not allowed in parameter problem", 12, 0, padTo(quoted4(true, 30), 128), ext, quoted6(true, 30), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "big extension" {
				c.want = append(c.want, c.ext...)
			}
			in := from4(c.typ, c.code, uint32(len(c.quote)/4)<<16, append(bytes.Clone(c.quote), c.ext...))
			p := packetOf(in)
			if v := w.Translate(p); v != Forward6 {
				t.Fatal(v)
			}
			got := p.Bytes()
			if !bytes.Equal(got[48:], c.want) {
				t.Errorf("%d bytes\n%x\nwant %d\n%x", len(got)-48, got[48:], len(c.want), c.want)
			}
			if c.code != 4 && uint32(got[44]) != c.length6 {
				t.Errorf("length %d, want %d", got[44], c.length6)
			}
		})
	}
	t.Run("length beyond the end", func(t *testing.T) {
		wantTranslated(t, w, from4(11, 0, 40<<16, padTo(quoted4(true, 30), 128)), Forward6, to6(3, 0, 0, quoted6(true, 30)))
	})
}

func TestSection6_ExtensionsTo4(t *testing.T) {
	w := newTestWorker(t)
	ext := extensionOf(16)
	for _, c := range []struct {
		name    string
		typ     uint8
		quote   []byte
		ext     []byte
		want    []byte
		length4 uint8
	}{
		{"short quote", 3, padTo(quoted6(false, 30), 128), ext, append(padTo(quoted4(false, 30), 128), ext...), 32},
		{"quote that fills", 1, quoted6(false, 152), ext, append(quoted4(false, 152), ext...), 45},
		{"quote cut for the extension", 1, quoted6(false, 952), ext, append(bytes.Clone(quoted4(false, 952)[:532]), ext...), 133},
		{"does not fit", 3, padTo(quoted6(false, 30), 128), extensionOf(424), quoted4(false, 30), 0},
		{"just fits", 3, padTo(quoted6(false, 30), 128), extensionOf(420), append(padTo(quoted4(false, 30), 128), extensionOf(420)...), 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := from6(c.typ, 0, uint32(len(c.quote)/8)<<24, append(bytes.Clone(c.quote), c.ext...))
			p := packetOf(in)
			if v := w.Translate(p); v != Forward4 {
				t.Fatal(v)
			}
			got := p.Bytes()
			copy(got[28+4:28+6], c.want[4:6]) // the quote's identification
			copy(got[28+10:28+12], c.want[10:12])
			got[28+6] = c.want[6]
			if !bytes.Equal(got[28:], c.want) {
				t.Errorf("%d bytes\n%x\nwant %d\n%x", len(got)-28, got[28:], len(c.want), c.want)
			}
			if got[25] != c.length4 {
				t.Errorf("length %d, want %d", got[25], c.length4)
			}
			if len(got) > 576 {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
}

func TestSection6_Size(t *testing.T) {
	w := newTestWorker(t)
	wantTranslated(t, w, from4(3, 1, 0, quoted4(true, 1400)), Forward6, to6(1, 0, 0, quoted6(true, 1400)[:1232]))
	wantTranslated(t, w, from4(3, 1, 0, quoted4(true, 1176)), Forward6, to6(1, 0, 0, quoted6(true, 1176)[:1224]))
}
