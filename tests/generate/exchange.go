package generate

import (
	"net/netip"

	"github.com/natless/natless/tests/reference"
)

// Datagram is one UDP datagram for a shared address in fragments, in any order,
// some of them twice.
func (g *Generator) Datagram() (out []reference.Packet) {
	src, dst := g.peer4(), netip.MustParseAddr(pick(g, "198.51.100.7", "198.51.100.7", "5.1.2.4"))
	if g.World.Rules != nil && g.chance(50) {
		dst = pick(g, g.customers4()...)
	}
	upper := g.ported(8)
	upper = append(upper, g.bytes(100+g.IntN(3000))...)
	put16(upper[4:], len(upper))
	upper = g.sealed(src, dst, 17, 6, upper)
	id, df := g.IntN(1<<16), g.chance(20)
	for at := 0; at < len(upper); {
		n := min(8*(1+g.IntN(180)), len(upper)-at)
		b := make([]byte, 20, 20+n)
		b[0], b[8], b[9] = 0x45, 64, 17
		put16(b[2:], 20+n)
		put16(b[4:], id)
		put16(b[6:], at/8)
		if at+n < len(upper) {
			b[6] |= 0x20
		}
		if df {
			b[6] |= 0x40
		}
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		Repair(b)
		out = append(out, reference.Packet{Bytes: append(b, upper[at:at+n]...)})
		at += n
		if g.chance(5) {
			out = append(out, out[len(out)-1])
		}
	}
	if g.World.Edge.Enabled() && g.chance(80) {
		for i, p := range out {
			out[i] = g.relayed(p)
		}
	}
	if g.chance(60) {
		g.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return out
}

// relayed is what a relay makes of a fragment for a block of whole addresses.
func (g *Generator) relayed(p reference.Packet) reference.Packet {
	from, payload := p.Bytes[:20], p.Bytes[20:]
	b := make([]byte, 48, 48+len(payload))
	b[0], b[6], b[7], b[40] = 0x60, 44, from[8], from[9]
	put16(b[4:], 8+len(payload))
	put16(b[42:], (int(from[6]&0x1f)<<8|int(from[7]))<<3|int(from[6]>>5&1))
	copy(b[46:], from[4:6])
	src := reference.Embed(g.World.Edge.Prefix, netip.AddrFrom4([4]byte(from[12:16])))
	dst := netip.MustParseAddr("2001:db8:e::7")
	if from[16] == 5 {
		dst = netip.MustParseAddr("2001:db8:e:2:204::")
	}
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return reference.Packet{Bytes: append(b, payload...)}
}

// Ping is an echo request from a workload that shares its address.
func (g *Generator) Ping() reference.Packet {
	if g.World.Inside() && g.chance(50) {
		return g.pingInside()
	}
	src := netip.MustParseAddr(pick(g, "2001:db8:5::1", "2001:db8:5::2", "2001:db8:5::3", "2001:db8:5:1::77"))
	if g.World.Rules != nil && g.chance(50) {
		src = g.customer6()
	}
	dst := g.embed(pick(g, g.peer4(), g.peer4(), g.peer4(), g.workload4()))
	b := make([]byte, 40, 2000)
	m := g.echo(src, dst)
	m[0], m[1] = 128, 0
	m = g.sealedICMP(src, dst, m)
	b[0], b[6], b[7] = 0x60, 58, 64
	put16(b[4:], len(m))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return reference.Packet{Bytes: append(b, m...)}
}

// pingInside is an echo request from a workload with IPv4 inside.
func (g *Generator) pingInside() reference.Packet {
	from := g.insider()
	src, dst := from.IPv4.Addr(), pick(g, g.peer4(), g.peer4(), g.peer4(), g.workload4())
	m := g.echo(src, dst)
	m[0], m[1] = 8, 0
	b := make([]byte, 20, 20+len(m))
	b[0], b[8], b[9] = 0x45, 64, 1
	put16(b[2:], 20+len(m))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	Repair(b)
	return reference.Packet{Bytes: append(b, g.sealedICMP(src, dst, m)...), From: from.IPv6}
}

// Expired is what a router says about an IPv4 packet, which it quotes as far as it likes.
func (g *Generator) Expired(p reference.Packet) reference.Packet {
	src := g.peer4()
	dst, _ := netip.AddrFromSlice(p.Bytes[12:16])
	m := append(make([]byte, 8), p.Bytes[:pick(g, len(p.Bytes), len(p.Bytes), 28)]...)
	m[0] = 11
	b := make([]byte, 20, 20+len(m))
	b[0], b[8], b[9] = 0x45, 64, 1
	put16(b[2:], 20+len(m))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	Repair(b)
	return reference.Packet{Bytes: append(b, g.sealedICMP(src, dst, m)...)}
}

// Pong is what a host answers to an echo request; at times something has gone
// wrong with its data on the way.
func (g *Generator) Pong(request reference.Packet) reference.Packet {
	b := append([]byte(nil), request.Bytes...)
	at, size, reply := 20, 4, byte(0)
	src := 12
	if b[0]>>4 == 6 {
		at, size, reply, src = 40, 16, 129, 8
	}
	from, _ := netip.AddrFromSlice(b[src+size : src+2*size])
	to, _ := netip.AddrFromSlice(b[src : src+size])
	copy(b[src:], from.AsSlice())
	copy(b[src+size:], to.AsSlice())
	b[at] = reply
	if g.chance(15) {
		b[len(b)-1-g.IntN(8)] ^= 1 << g.IntN(8)
	}
	g.sealedICMP(from, to, b[at:])
	Repair(b)
	return reference.Packet{Bytes: b}
}
