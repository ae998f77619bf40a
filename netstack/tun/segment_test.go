package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/translator"
)

// superpacket builds a packet with gopacket, its checksum partial as the
// kernel hands it over.
func superpacket(t testing.TB, v6 bool, l4 gopacket.SerializableLayer, payload []byte, gso translator.Offload) *translator.Packet {
	t.Helper()
	proto := layers.IPProtocolTCP
	if _, udp := l4.(*layers.UDP); udp {
		proto = layers.IPProtocolUDP
	}
	var ip gopacket.SerializableLayer
	ip4 := &layers.IPv4{Version: 4, TTL: 64, Id: 0xfffe, Flags: layers.IPv4DontFragment, Protocol: proto,
		SrcIP: netip.MustParseAddr("198.51.100.2").AsSlice(), DstIP: netip.MustParseAddr("192.0.2.2").AsSlice()}
	ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto,
		SrcIP: netip.MustParseAddr("2001:db8:6::2").AsSlice(), DstIP: netip.MustParseAddr("2001:db8:64::c000:202").AsSlice()}
	ip = ip4
	if v6 {
		ip = ip6
	}
	out := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true}, ip, l4, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	p := new(Buffers).Buffer()
	p.End = p.Start + copy(p.Buf[p.Start:], out.Bytes())
	p.Offload = gso
	p.Flags, p.CsumStart, p.CsumOffset = translator.FlagNeedsCsum, 20, 16
	if v6 {
		p.CsumStart = 40
	} else {
		ip := header.IPv4(p.Bytes())
		ip.SetChecksum(^ip.CalculateChecksum())
	}
	if proto == layers.IPProtocolUDP {
		p.CsumOffset = 6
	}
	segment := p.Bytes()[p.CsumStart:]
	checksum.Put(segment[p.CsumOffset:], header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(proto),
		addr(v6, ip4.SrcIP, ip6.SrcIP), addr(v6, ip4.DstIP, ip6.DstIP), uint16(len(segment))))
	return p
}

func addr(v6 bool, a4, a6 []byte) tcpip.Address {
	if v6 {
		return tcpip.AddrFromSlice(a6)
	}
	return tcpip.AddrFromSlice(a4)
}

// judge has gVisor verify lengths and checksums and gives the transport header.
func judge(t testing.TB, p *translator.Packet) (transport []byte) {
	t.Helper()
	if p.Offload != (translator.Offload{}) {
		t.Fatalf("offload fields are left: %+v", p.Offload)
	}
	b := p.Bytes()
	var network header.Network
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		if !ip.IsValid(len(b)) || !ip.IsChecksumValid() || int(ip.TotalLength()) != len(b) {
			t.Fatalf("IPv4 header is invalid: % x", b[:20])
		}
		network = ip
	} else {
		ip := header.IPv6(b)
		if !ip.IsValid(len(b)) || int(ip.PayloadLength()) != len(b)-40 {
			t.Fatalf("IPv6 header is invalid: % x", b[:40])
		}
		network = ip
	}
	transport = network.Payload()
	sum := header.PseudoHeaderChecksum(network.TransportProtocol(), network.SourceAddress(), network.DestinationAddress(), uint16(len(transport)))
	if checksum.Checksum(transport, sum) != 0xffff {
		t.Fatalf("transport checksum is wrong: % x", transport[:8])
	}
	return transport
}

func random(n int) []byte {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func segments(t testing.TB, p *translator.Packet) (out []*translator.Packet) {
	t.Helper()
	var s Segmenter
	if err := s.Reset(p); err != nil {
		t.Fatal(err)
	}
	for dst := new(Buffers).Buffer(); s.Next(dst); dst = new(Buffers).Buffer() {
		out = append(out, dst)
	}
	return out
}

func TestSegmentTCP(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		gso := translator.Offload{GSOType: translator.GSOTCPv4 | translator.GSOECN, GSOSize: 1448}
		if v6 {
			gso.GSOType = translator.GSOTCPv6 | translator.GSOECN
		}
		payload := random(1448*3 + 77)
		in := superpacket(t, v6, &layers.TCP{SrcPort: 1000, DstPort: 80, Seq: 0xfffffff0, Ack: 5, ACK: true, PSH: true, FIN: true, CWR: true, Window: 9,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: make([]byte, 8)}}}, payload, gso)
		var whole []byte
		got := segments(t, in)
		for i, p := range got {
			tcp := header.TCP(judge(t, p))
			if want := uint32(0xfffffff0) + uint32(len(whole)); tcp.SequenceNumber() != want {
				t.Errorf("segment %d: sequence %#x, want %#x", i, tcp.SequenceNumber(), want)
			}
			want := header.TCPFlagAck
			if i == 0 {
				want |= 0x80 // CWR
			}
			if i == len(got)-1 {
				want |= header.TCPFlagFin | header.TCPFlagPsh
			}
			if flags := header.TCPFlags(tcp[13]); flags != want {
				t.Errorf("segment %d: flags %#x, want %#x", i, flags, want)
			}
			if !v6 {
				if id := header.IPv4(p.Bytes()).ID(); id != 0xfffe+uint16(i) {
					t.Errorf("segment %d: identification %#x", i, id)
				}
			}
			whole = append(whole, tcp.Payload()...)
		}
		if len(got) != 4 || !bytes.Equal(whole, payload) {
			t.Errorf("v6=%v: %d segments do not make the payload", v6, len(got))
		}
	}
}

func TestSegmentUDP(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		payload := random(1200*4 + 1)
		in := superpacket(t, v6, &layers.UDP{SrcPort: 1000, DstPort: 443}, payload, translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: 1200})
		var whole []byte
		for i, p := range segments(t, in) {
			udp := header.UDP(judge(t, p))
			if int(udp.Length()) != len(udp) {
				t.Errorf("datagram %d: length %d of %d", i, udp.Length(), len(udp))
			}
			whole = append(whole, udp.Payload()...)
		}
		if !bytes.Equal(whole, payload) {
			t.Errorf("v6=%v: the datagrams do not make the payload", v6)
		}
	}
}

func TestSegmentSkipsExtensionHeaders(t *testing.T) {
	p := superpacket(t, true, &layers.UDP{SrcPort: 1, DstPort: 2}, random(300), translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: 100})
	b := append([]byte{}, p.Bytes()...)
	b = append(b[:40:40], append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, b[40:]...)...)
	b[6] = 60 // destination options with padding
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	p.End = p.Start + copy(p.Buf[p.Start:], b)
	p.CsumStart += 8
	for i, segment := range segments(t, p) {
		parsed := gopacket.NewPacket(segment.Bytes(), layers.LayerTypeIPv6, gopacket.Default)
		if udp, ok := parsed.Layer(layers.LayerTypeUDP).(*layers.UDP); !ok || len(udp.Payload) != 100 {
			t.Errorf("segment %d is %v", i, parsed)
		}
	}
}

func TestUDPWithoutChecksumStaysSo(t *testing.T) {
	p := superpacket(t, false, &layers.UDP{SrcPort: 1, DstPort: 2}, random(300), translator.Offload{GSOType: translator.GSOUDPL4, GSOSize: 100})
	p.Flags = 0
	copy(p.Bytes()[26:], []byte{0, 0})
	for _, segment := range segments(t, p) {
		if sum := header.UDP(segment.Bytes()[20:]).Checksum(); sum != 0 {
			t.Errorf("checksum %#x came out of none", sum)
		}
	}
}

func TestCompleteChecksum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, l4 := range []gopacket.SerializableLayer{&layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}, &layers.UDP{SrcPort: 1, DstPort: 2}} {
			p := superpacket(t, v6, l4, random(333), translator.Offload{})
			if !CompleteChecksum(p) {
				t.Fatal("refused")
			}
			judge(t, p)
		}
	}
}

// A sum that comes out as zero must be sent as all ones: zero means no checksum.
func TestUDPChecksumIsNeverZero(t *testing.T) {
	p := superpacket(t, true, &layers.UDP{SrcPort: 1, DstPort: 2}, []byte{0, 0}, translator.Offload{})
	b := p.Bytes()
	rest := ^checksum.Checksum(b[40:], 0)
	binary.BigEndian.PutUint16(b[48:], rest) // now everything sums to 0xffff
	if !CompleteChecksum(p) || binary.BigEndian.Uint16(b[46:]) != 0xffff {
		t.Errorf("checksum is %#x", b[46:48])
	}
}

func FuzzSegmenter(f *testing.F) {
	tcp := superpacket(f, true, &layers.TCP{SrcPort: 1, DstPort: 2}, random(99), translator.Offload{})
	udp := superpacket(f, false, &layers.UDP{SrcPort: 1, DstPort: 2}, random(99), translator.Offload{})
	f.Add(tcp.Bytes(), byte(translator.GSOTCPv6), uint16(10), uint16(40), uint16(16))
	f.Add(udp.Bytes(), byte(translator.GSOUDPL4), uint16(10), uint16(20), uint16(6))
	f.Fuzz(func(t *testing.T, b []byte, gsoType byte, size, start, offset uint16) {
		p := new(Buffers).Buffer()
		p.End = p.Start + copy(p.Buf[p.Start:len(p.Buf)-translator.Tailroom], b)
		p.Offload = translator.Offload{Flags: translator.FlagNeedsCsum, GSOType: gsoType, GSOSize: size, CsumStart: start, CsumOffset: offset}
		encode(p, 0)
		var s Segmenter
		dst := new(Buffers).Buffer()
		for n, err := 0, s.Reset(p); err == nil && s.Next(dst); n++ {
			if n > len(b) || dst.End-dst.Start > len(b) {
				t.Fatalf("segment %d of %d bytes from %d", n, dst.End-dst.Start, len(b))
			}
		}
		CompleteChecksum(p)
	})
}

func TestHeaderSurvivesTheWay(t *testing.T) {
	for _, link := range []int{0, LinkLen} {
		p := superpacket(t, true, &layers.TCP{SrcPort: 1, DstPort: 2}, random(5000), translator.Offload{GSOType: translator.GSOTCPv6, GSOSize: 1400, HdrLen: 9})
		want := p.Offload
		want.HdrLen = 60 + uint16(link) // not what the reader was told, but what is there
		frame := encode(p, link)
		if got := int(binary.NativeEndian.Uint16(frame[6:])); got != int(want.CsumStart)+link {
			t.Errorf("the checksum of a frame begins at %d, want %d behind %d", got, want.CsumStart, link)
		}
		p.Offload = translator.Offload{}
		decode(p, link)
		if p.Offload != want {
			t.Errorf("got %+v, want %+v", p.Offload, want)
		}
	}
}
