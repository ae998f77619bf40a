package conformance

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// Bits of the fuzzer's mode: what is made right before a packet is translated,
// since chance alone hardly ever does.
const (
	repairHeader = 1 << iota // IPv4 header checksum
	repairLength             // length in the IP header
	repairICMP               // checksum of an ICMP message
	offloaded                // partial checksum, and with gso != 0 a superpacket
)

// seeds gives a fuzz target packets of every world from the generator.
func seeds(f *testing.F, worlds []generate.World, next func(*generate.Generator) reference.Packet) {
	for i, w := range worlds {
		g := generate.New(w, uint64(1000+i))
		for range 60 {
			p := next(g)
			mode := uint8(repairHeader)
			if p.Offload.Flags != 0 {
				mode |= offloaded
			}
			if len(p.Bytes) < 3000 {
				f.Add(uint8(i), mode, p.Offload.GSOSize, p.Bytes)
			}
		}
	}
}

// FuzzDifferential4 compares the translators on packets from IPv4.
func FuzzDifferential4(f *testing.F) {
	seeds(f, generate.Worlds(), (*generate.Generator).Next4)
	fuzz(f, generate.Worlds(), 4, false)
}

// FuzzDifferentialInside compares them on IPv4 packets of workloads that have it inside.
func FuzzDifferentialInside(f *testing.F) {
	seeds(f, generate.InsideWorlds(), (*generate.Generator).NextInside)
	fuzz(f, generate.InsideWorlds(), 4, true)
}

// FuzzDifferential6 compares them on packets from IPv6.
func FuzzDifferential6(f *testing.F) {
	seeds(f, generate.Worlds(), (*generate.Generator).Next6)
	fuzz(f, generate.Worlds(), 6, false)
}

// FuzzDifferentialEdge compares them on packets of the fabric, and on those that leave by it.
func FuzzDifferentialEdge(f *testing.F) {
	seeds(f, generate.EdgeWorlds(), (*generate.Generator).NextFabric)
	seeds(f, generate.EdgeWorlds(), (*generate.Generator).Next6)
	fuzz(f, generate.EdgeWorlds(), 6, false)
}

func fuzz(f *testing.F, worlds []generate.World, version byte, inside bool) {
	var pairs []*pair
	for _, w := range worlds {
		pairs = append(pairs, newPair(f, w))
	}
	now := int64(1)
	f.Fuzz(func(t *testing.T, world, mode uint8, gso uint16, b []byte) {
		if len(b) > 65535+40 {
			return
		}
		// A minute later nothing is left of the packet before.
		p := pairs[int(world)%len(pairs)]
		now += int64(time.Minute)
		p.slow = reference.New(p.world.World)
		p.setTime(now)
		in := prepare(mode, gso, append([]byte(nil), b...), version)
		if inside {
			in.From = sender(p.world, in.Bytes)
		}
		r, err := p.check(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := sound(in, r); err != nil {
			t.Fatalf("%v\n%s", err, describe(in))
		}
		if err := p.circles(in, r); err != nil {
			t.Fatalf("%v\n%s", err, describe(in))
		}
	})
}

// sender is a workload with IPv4 inside that has the source of a packet, as far as
// there is one, and else another.
func sender(w generate.World, b []byte) (from netip.Prefix) {
	for _, m := range w.Mappings {
		if !m.Inside {
			continue
		}
		from = m.IPv6
		if len(b) >= 24 && m.IPv4.Addr() == netip.AddrFrom4([4]byte(b[12:16])) && m.Ports.Contains(binary.BigEndian.Uint16(b[20:])) {
			return from
		}
	}
	return from
}

// prepare repairs what mode says.
func prepare(mode uint8, gso uint16, b []byte, version byte) reference.Packet {
	p := reference.Packet{Bytes: b}
	if len(b) < 20 || b[0]>>4 != version {
		return p
	}
	at, protocol := 40, byte(0)
	if version == 4 {
		at, protocol = int(b[0]&0xf)*4, b[9]
		if mode&repairLength != 0 {
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		}
	} else if len(b) >= 40 {
		protocol = b[6]
		if mode&repairLength != 0 {
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		}
	}
	if len(b) >= at+4 && mode&repairICMP != 0 && (protocol == 1 || protocol == 58) {
		binary.BigEndian.PutUint16(b[at+2:], 0)
		sum := checksum.Checksum(b[at:], 0)
		if version == 6 {
			sum = checksum.Combine(sum, header.PseudoHeaderChecksum(58, header.IPv6(b).SourceAddress(),
				header.IPv6(b).DestinationAddress(), uint16(len(b)-40)))
		}
		binary.BigEndian.PutUint16(b[at+2:], ^sum)
	}
	if mode&repairHeader != 0 {
		generate.Repair(b)
	}
	if mode&offloaded != 0 {
		p.Offload = offloads(protocol, at, gso, version)
	}
	return p
}

// offloads are those that fit the packet, as a kernel would give them.
func offloads(protocol byte, at int, gso uint16, version byte) translator.Offload {
	o := translator.Offload{Flags: translator.FlagNeedsCsum, CsumStart: uint16(at), GSOSize: gso}
	switch {
	case protocol == 6:
		o.CsumOffset, o.GSOType = 16, translator.GSOTCPv4
		if version == 6 {
			o.GSOType = translator.GSOTCPv6
		}
	case protocol == 17:
		o.CsumOffset, o.GSOType = 6, translator.GSOUDPL4
	default:
		return translator.Offload{}
	}
	if gso == 0 {
		o.GSOType = translator.GSONone
	}
	return o
}
