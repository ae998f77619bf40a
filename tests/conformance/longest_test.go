package conformance

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// ofLength is a packet whose length field is that, a superpacket if super. The
// workload has sent it if to4.
func ofLength(t *testing.T, to4 bool, protocol byte, length int, super bool) reference.Packet {
	var b []byte
	at := 20
	if to4 {
		at = 40
		b = serialize(t, ip6(workload6, peer6, layers.IPProtocol(protocol)))
		put(b[4:], uint16(length))
		length += 40
		b[6] = protocol
	} else {
		b = serialize(t, ip4(peer4, workload4, layers.IPProtocol(protocol)))
		put(b[2:], uint16(length))
		b[6] = 0x40
		generate.Repair(b)
	}
	b = append(b, data(length-at)...)
	o := translator.Offload{Flags: translator.FlagNeedsCsum, GSOSize: 1200, CsumStart: uint16(at), CsumOffset: 6, GSOType: translator.GSOUDPL4}
	if protocol == 6 {
		b[at+12] = 5 << 4
		o.CsumOffset, o.GSOType = 16, translator.GSOTCPv4
		if to4 {
			o.GSOType = translator.GSOTCPv6
		}
	} else {
		put(b[at+4:], uint16(length-at))
	}
	if !super {
		o = translator.Offload{}
	}
	return reference.Packet{Bytes: b, Offload: o}
}

// TestLongest: what is nearly too long for one family, or for both, is translated
// to the byte, too big, or translated in pieces, and no length overflows.
func TestLongest(t *testing.T) {
	t.Parallel()
	p := lab(t, func(w *generate.World) { w.MTU4, w.MTU6, w.LowestMTU6 = 65535, 65535, 65535 })
	var lengths []int
	for length := 65475; length <= 65535; length++ {
		lengths = append(lengths, length)
	}
	for _, length := range lengths {
		for _, protocol := range []byte{6, 17, 47} {
			for _, super := range []bool{true, false} {
				for _, to4 := range []bool{true, false} {
					if super && protocol == 47 {
						continue
					}
					in := ofLength(t, to4, protocol, length, super)
					r, err := p.check(in)
					if err != nil {
						t.Fatal(err)
					}
					want := translator.Forward6
					switch {
					case to4 && length > 65515 && super:
						want = translator.Segment
					case to4 && length > 65515:
						want = translator.TooBig | translator.Replied
					case to4:
						want = translator.Forward4
					case !super && length+20 > 65535:
						want = translator.TooBig | translator.Replied
					}
					if r.verdict != want {
						t.Errorf("protocol %d, length %d, super %v, from IPv6 %v: %v, want %v", protocol, length, super, to4, r.verdict, want)
					}
					if r.verdict == translator.Segment {
						inPieces(t, p, in)
					}
				}
			}
		}
	}
}

// inPieces cuts a superpacket as the daemon does: each piece is translated.
func inPieces(t *testing.T, p *pair, in reference.Packet) {
	t.Helper()
	var s tun.Segmenter
	if err := s.Reset(buffer(in)); err != nil {
		t.Fatal(err)
	}
	payload, head := 0, 48
	if in.Bytes[6] == 6 {
		head = 60
	}
	for {
		out := &translator.Packet{Buf: make([]byte, translator.Headroom+2000+translator.Tailroom), Start: translator.Headroom, End: translator.Headroom}
		if !s.Next(out) {
			break
		}
		r, err := p.check(take(out))
		if err != nil {
			t.Fatal(err)
		}
		if r.verdict != translator.Forward4 {
			t.Fatal(r.verdict)
		}
		payload += len(r.packets[0].Bytes) - head + 20
	}
	if want := len(in.Bytes) - head; payload != want {
		t.Errorf("%d bytes of payload came through, want %d", payload, want)
	}
}

// TestNoLength: packets longer than their length field can say (BIG TCP, RFC 2675)
// have 0 there, and do not get here; they are malformed.
func TestNoLength(t *testing.T) {
	t.Parallel()
	p := lab(t, nil)
	jumbo := ofLength(t, true, 6, 65535, true)
	jumbo.Bytes = append(jumbo.Bytes, data(9000)...)
	put(jumbo.Bytes[4:], 0)
	dropped(t, p, jumbo.Bytes, translator.Malformed)
	if r := p.translate(jumbo); r.verdict != translator.Malformed {
		t.Errorf("BIG TCP over IPv6: %v", r.verdict)
	}
	option := append(append([]byte(nil), jumbo.Bytes[:40]...), 6, 0, 0xc2, 4, 0, 1, 0x23, 0x45)
	option[6] = 0
	jumbo.Bytes = append(option, jumbo.Bytes[40:]...)
	jumbo.Offload.CsumStart += 8
	if r := p.translate(jumbo); r.verdict != translator.Malformed {
		t.Errorf("a jumbogram: %v", r.verdict)
	}
	big := ofLength(t, false, 6, 65535, true)
	big.Bytes = append(big.Bytes, data(9000)...)
	put(big.Bytes[2:], 0)
	generate.Repair(big.Bytes)
	if r := p.translate(big); r.verdict != translator.Malformed {
		t.Errorf("BIG TCP over IPv4: %v", r.verdict)
	}
}
