package generate

import (
	"math/rand/v2"
	"net/netip"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/special"
)

// Generator makes packets for one world.
type Generator struct {
	*rand.Rand
	World World

	fabric bool // the world is that of an edge's fabric
}

// New makes a generator; the seed decides everything it makes.
func New(w World, seed uint64) *Generator {
	return &Generator{Rand: rand.New(rand.NewPCG(seed, 7915)), World: w}
}

// chance is true n times out of a hundred.
func (g *Generator) chance(n int) bool { return g.IntN(100) < n }

func pick[T any](g *Generator, list ...T) T { return list[g.IntN(len(list))] }

// Next4 is a packet that comes from the IPv4 side.
func (g *Generator) Next4() reference.Packet {
	src, dst := g.peer4(), g.workload4()
	switch g.IntN(20) {
	case 0:
		src = g.odd4()
	case 1:
		dst = g.odd4()
	case 2:
		src = pick(g, g.workload4(), g.nobodys4())
	case 3:
		dst = g.nobodys4()
	}
	return g.next(src, dst)
}

// Next6 is a packet that comes from the IPv6 side.
func (g *Generator) Next6() reference.Packet {
	src, dst := g.workload6(), g.embed(g.peer4())
	switch g.IntN(16) {
	case 0:
		src = g.odd6()
	case 1:
		dst = g.odd6()
	case 2, 3, 4:
		dst = g.embed(g.workload4())
	case 5:
		dst = g.workload6()
	case 8: // a router on the way
		src = pick(g, routers6...)
	case 9:
		if len(g.World.FirstUse) > 0 {
			src = netip.MustParseAddr("2001:db8:a::7")
		}
	case 6:
		src = g.embed(pick(g, g.peer4(), g.peer4(), g.workload4(), g.nobodys4()))
	case 7:
		dst = g.embed(g.nobodys4())
	}
	return g.next(src, dst)
}

// NextFabric is a packet that comes by the fabric of an edge, for a block of the host.
func (g *Generator) NextFabric() reference.Packet {
	fabric := g.onFabric()
	src, dst := fabric.embed(g.peer4()), fabric.workload6()
	switch g.IntN(16) {
	case 0:
		src = fabric.embed(g.odd4())
	case 1:
		dst = g.odd6()
	case 2:
		src = pick(g, g.workload6(), fabric.workload6(), Own6, g.embed(g.peer4()))
	case 3:
		src = fabric.embed(pick(g, g.workload4(), g.nobodys4()))
	case 4, 5:
		src = pick(g, routers6...)
	}
	return fabric.next(src, dst)
}

// onFabric makes packets of the fabric.
func (g *Generator) onFabric() *Generator {
	f := &Generator{Rand: g.Rand, World: g.World, fabric: true}
	f.World.Prefix = g.World.Edge.Prefix
	return f
}

// NextInside is a packet that a workload with IPv4 inside sends.
func (g *Generator) NextInside() reference.Packet {
	from := g.insider()
	src, dst := from.IPv4.Addr(), g.peer4()
	switch g.IntN(12) {
	case 0:
		src = pick(g, g.workload4(), g.odd4())
	case 1:
		dst = pick(g, g.odd4(), g.nobodys4(), Own4)
	case 2, 3, 4:
		dst = g.workload4()
	}
	p := g.next(src, dst)
	p.From = from.IPv6
	return p
}

// insider is a workload with IPv4 inside.
func (g *Generator) insider() mapping.Mapping {
	for {
		if m := pick(g, g.World.Mappings...); m.Inside {
			return m
		}
	}
}

func (g *Generator) next(src, dst netip.Addr) reference.Packet {
	p := g.ip(src, dst, false)
	if g.chance(6) {
		g.damage(&p)
	}
	return p
}

func addresses(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Addresses that mean something in the worlds.
var (
	workloads4 = addresses("198.51.100.2", "5.1.2.3", "203.0.113.9", "203.0.113.67", "203.0.113.140",
		"198.51.100.70", "5.1.3.77", "198.51.100.7", "198.51.100.7", "5.1.2.4")
	workloads6 = addresses("2001:db8:6::2", "2001:db8:6::3", "2001:db8:7::9", "2001:db8:7::43",
		"2001:db8:8:0:800::", "2001:db8:9:0:4d00::", "2001:db8:9:0:4dab:cdef::1", "2001:db8:5::1", "2001:db8:5::2",
		"2001:db8:5::2", "2001:db8:5::3", "2001:db8:5:1::", "2001:db8:5:1::77", "2001:db8:5::4", "2001:db8:5::5", "2001:db8:5::6")
	blocks6 = addresses("2001:db8:e::2", "2001:db8:e::7", "2001:db8:e::7", "2001:db8:e::7", "2001:db8:e::8", "2001:db8:e:1::43",
		"2001:db8:e:1::9", "2001:db8:e::46", "2001:db8:e:2:203::", "2001:db8:e:2:204::", "2001:db8:e:2:377::")
	routers6 = addresses("2001:db9::1", "2001:db9::2")
	nobody4  = addresses("198.51.100.9", "198.51.100.15", "5.1.2.6", "192.0.2.65", Own4.String())
	odds4    = addresses("0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.3.4", "224.0.0.1", "239.1.2.3",
		"240.0.0.1", "255.255.255.255", "10.1.2.3", "172.16.3.4", "192.168.1.1", "100.64.0.1", "198.18.0.1",
		"192.0.0.1", "203.0.114.1", "198.51.100.7", Own4.String())
	odds6 = addresses("::", "::1", "fe80::1", "febf::1", "ff02::1", "ff0e::1", "2001:db9::1", "2001:db8:f::",
		"64:ff9b::808:808", "2001:db8:6::ffff", "fc00::1", Own6.String(), Own6.String())
)

// peer4 is a host on the IPv4 side.
func (g *Generator) peer4() netip.Addr {
	if g.World.Name == "global-only" && g.chance(90) {
		return netip.AddrFrom4([4]byte{8, 8, 8, byte(g.Uint32())})
	}
	if !g.World.Prefix.IsValid() && g.chance(90) {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + g.IntN(250))})
	}
	return pick(g, netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + g.IntN(250))}),
		netip.AddrFrom4([4]byte{100, 64, byte(g.Uint32()), 9}),
		netip.AddrFrom4([4]byte{8, 8, byte(g.Uint32()), 8}),
		netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + g.IntN(250))}))
}

// workload4 is the IPv4 address of a workload.
func (g *Generator) workload4() netip.Addr {
	if g.World.Rules != nil && g.chance(50) {
		return pick(g, g.customers4()...)
	}
	return pick(g, workloads4...)
}

// workload6 is the IPv6 address of a workload.
func (g *Generator) workload6() netip.Addr {
	if g.fabric && g.chance(30) {
		return pick(g, g.World.Edge.Blocks...).IPv6.Addr()
	}
	if g.fabric {
		return pick(g, blocks6...)
	}
	if g.World.Rules != nil && g.chance(50) {
		return g.customer6()
	}
	return pick(g, workloads6...)
}

// nobodys4 is an address of the translator's that no workload has: of a pool, its
// own, of a source pool in some world.
func (g *Generator) nobodys4() netip.Addr {
	return pick(g, nobody4...)
}

// odd4 is an address that is hard to translate.
func (g *Generator) odd4() netip.Addr {
	if a := g.special(); a.Is4() {
		return a
	}
	return pick(g, odds4...)
}

// odd6 is the same in IPv6.
func (g *Generator) odd6() netip.Addr {
	if g.chance(40) {
		return g.embed(g.odd4())
	}
	if a := g.special(); a.Is6() {
		return a
	}
	return pick(g, odds6...)
}

// special is at times the first or last address of a special-purpose block.
func (g *Generator) special() netip.Addr {
	e := pick(g, special.Registry...)
	b := e.Prefix.Addr().AsSlice()
	for i := e.Prefix.Bits(); i < len(b)*8 && g.chance(50); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// embed is what a workload calls an IPv4 host: its address under the prefix,
// where there is one with some dirt in the suffix at times.
func (g *Generator) embed(a netip.Addr) netip.Addr {
	p := g.World.Prefix
	if !p.IsValid() {
		b := a.As4()
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 15: b[3]})
	}
	b := reference.Embed(p, a).As16()
	if g.chance(10) && p.Bits() < 96 {
		b[15] = byte(g.Uint32())
		b[8] = byte(g.Uint32())
	}
	return netip.AddrFrom16(b)
}

// damage breaks a packet in one of many ways.
func (g *Generator) damage(p *reference.Packet) {
	b := p.Bytes
	switch g.IntN(6) {
	case 0:
		p.Bytes = b[:g.IntN(len(b))]
		p.Offload = translator.Offload{}
	case 1:
		if p.Offload == (translator.Offload{}) {
			p.Bytes = append(b, make([]byte, 1+g.IntN(40))...)
		}
	case 2:
		b[g.IntN(min(len(b), 80))] ^= 1 << g.IntN(8)
		p.Offload = translator.Offload{}
	case 3:
		b[g.IntN(min(len(b), 80))] = byte(g.Uint32())
		p.Offload = translator.Offload{}
		Repair(b)
	case 4:
		at := pick(g, 0, 2, 3, 4, 5, 6, 9)
		b[at%len(b)] = byte(g.Uint32())
		p.Offload = translator.Offload{}
		Repair(b)
	case 5:
		n := g.IntN(len(b))
		b = b[:n]
		if n >= 40 && b[0]>>4 == 4 {
			put16(b[2:], n)
		} else if n >= 40 {
			put16(b[4:], n-40)
		}
		p.Bytes, p.Offload = b, translator.Offload{}
		Repair(b)
	}
}
