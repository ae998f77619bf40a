package conformance

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// The hosts of the tests that are written by hand: a workload with a mapping, a
// peer on the IPv4 side, and a workload that shares its address. The prefix is 64:ff9b::/96.
var (
	workload6, workload4 = addr("2001:db8:6::2"), addr("198.51.100.2")
	peer6, peer4         = addr("64:ff9b::192.0.2.50"), addr("192.0.2.50")
	shared4              = addr("198.51.100.7")
	share1               = addr("2001:db8:5::1") // its ports: 1024-2047
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// lab is the first world, changed as a test wants.
func lab(t testing.TB, change func(*generate.World)) *pair {
	t.Helper()
	w := generate.Worlds()[0]
	if change != nil {
		change(&w)
	}
	return newPair(t, w)
}

// serialize has gopacket write a packet with right lengths and checksums.
func serialize(t testing.TB, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	o := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, o, list...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), b.Bytes()...)
}

func ip4(src, dst netip.Addr, protocol layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Id: 0x1234, Protocol: protocol, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
}

func ip6(src, dst netip.Addr, protocol layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: net.IP(src.AsSlice()), DstIP: net.IP(dst.AsSlice())}
}

func data(n int) gopacket.Payload {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return b
}

// udp4 and udp6 are UDP packets; change may be nil.
func udp4(t testing.TB, src, dst netip.Addr, size int, change func(*layers.IPv4)) []byte {
	ip := ip4(src, dst, layers.IPProtocolUDP)
	if change != nil {
		change(ip)
	}
	u := &layers.UDP{SrcPort: 4000, DstPort: 5000}
	must(t, u.SetNetworkLayerForChecksum(ip))
	return serialize(t, ip, u, data(size))
}

func udp6(t testing.TB, src, dst netip.Addr, size int, change func(*layers.IPv6)) []byte {
	ip := ip6(src, dst, layers.IPProtocolUDP)
	if change != nil {
		change(ip)
	}
	u := &layers.UDP{SrcPort: 4000, DstPort: 5000}
	must(t, u.SetNetworkLayerForChecksum(ip))
	return serialize(t, ip, u, data(size))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// icmpError4 is an ICMPv4 error with that rest of its header.
func icmpError4(t testing.TB, src, dst netip.Addr, typ, code byte, rest [4]byte, quote []byte) []byte {
	return serialize(t, ip4(src, dst, layers.IPProtocolICMPv4), raw4(typ, code, rest, quote))
}

// raw4 is an ICMPv4 message with its checksum.
func raw4(typ, code byte, rest [4]byte, body []byte) gopacket.Payload {
	b := append([]byte{typ, code, 0, 0, rest[0], rest[1], rest[2], rest[3]}, body...)
	put(b[2:], ^onesSum(b))
	return b
}

func icmpError6(t testing.TB, src, dst netip.Addr, typ, code byte, rest [4]byte, quote []byte) []byte {
	b := append([]byte{typ, code, 0, 0, rest[0], rest[1], rest[2], rest[3]}, quote...)
	put(b[2:], ^onesSum(src.AsSlice(), dst.AsSlice(), []byte{0, 0, byte(len(b) >> 8), byte(len(b)), 0, 0, 0, 58}, b))
	return serialize(t, ip6(src, dst, layers.IPProtocolICMPv6), gopacket.Payload(b))
}

func put(b []byte, v uint16) { b[0], b[1] = byte(v>>8), byte(v) }

func get(b []byte) int { return int(b[0])<<8 | int(b[1]) }

// onesSum is the ones' complement sum; all parts but the last are of even length.
func onesSum(parts ...[]byte) uint16 {
	var s uint32
	for _, p := range parts {
		for i, x := range p {
			if i%2 == 0 {
				s += uint32(x) << 8
			} else {
				s += uint32(x)
			}
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// out translates one packet and wants this verdict and one packet out of it.
func out(t testing.TB, p *pair, b []byte, want translator.Verdict) []byte {
	t.Helper()
	r := p.translate(reference.Packet{Bytes: b})
	if r.verdict != want {
		t.Fatalf("%v, want %v", r.verdict, want)
	}
	if len(r.packets) != 1 {
		t.Fatalf("%d packets", len(r.packets))
	}
	return r.packets[0].Bytes
}

// dropped wants a packet to be dropped in silence.
func dropped(t testing.TB, p *pair, b []byte, want translator.Verdict) {
	t.Helper()
	if r := p.translate(reference.Packet{Bytes: b}); r.verdict != want {
		t.Fatalf("%v, want %v", r.verdict, want)
	}
}

// answered4 wants an ICMPv4 error of ours with that rest of its header.
func answered4(t testing.TB, p *pair, b []byte, want translator.Verdict, typ, code byte, rest [4]byte) {
	t.Helper()
	r := out(t, p, b, want|translator.Replied)
	if r[0] != 0x45 || r[9] != 1 || r[20] != typ || r[21] != code || [4]byte(r[24:28]) != rest {
		t.Fatalf("answer % x, want type %d code %d rest %v", r[:28], typ, code, rest)
	}
	if r[8] != 64 || r[1] != 0 || netip.AddrFrom4([4]byte(r[12:16])) != generate.Own4 || [4]byte(r[16:20]) != [4]byte(b[12:16]) {
		t.Fatalf("header of the answer: % x", r[:20])
	}
	if onesSum(r[:20]) != 0xffff || onesSum(r[20:]) != 0xffff {
		t.Fatal("checksum of the answer")
	}
	quoted(t, r[28:], b, 576-28)
}

func answered6(t testing.TB, p *pair, b []byte, want translator.Verdict, typ, code byte, rest [4]byte) {
	t.Helper()
	r := out(t, p, b, want|translator.Replied)
	if r[0] != 0x60 || r[1] != 0 || r[6] != 58 || r[40] != typ || r[41] != code || [4]byte(r[44:48]) != rest {
		t.Fatalf("answer % x, want type %d code %d rest %v", r[:48], typ, code, rest)
	}
	if r[7] != 64 || netip.AddrFrom16([16]byte(r[8:24])) != generate.Own6 || [16]byte(r[24:40]) != [16]byte(b[8:24]) {
		t.Fatalf("header of the answer: % x", r[:40])
	}
	if onesSum(r[8:40], []byte{0, 0, r[4], r[5], 0, 0, 0, 58}, r[40:]) != 0xffff {
		t.Fatal("checksum of the answer")
	}
	quoted(t, r[48:], b, 1280-48)
}

func quoted(t testing.TB, quote, of []byte, most int) {
	t.Helper()
	if string(quote) != string(of[:min(len(of), most)]) {
		t.Fatalf("quotes %d bytes, want %d", len(quote), min(len(of), most))
	}
}
