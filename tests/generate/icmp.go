package generate

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

func (g *Generator) sealedICMP(src, dst netip.Addr, b []byte) []byte {
	if src.Is4() {
		return g.sealed(src, dst, 1, 2, b)
	}
	return g.sealed(src, dst, 58, 2, b)
}

// echo is an echo request or reply.
func (g *Generator) echo(src, dst netip.Addr) []byte {
	b := g.bytes(8 + g.size())
	b[0], b[1] = byte(pick(g, 8, 8, 0)), 0
	if src.Is6() {
		b[0] = byte(pick(g, 128, 128, 129))
	}
	if g.chance(2) {
		b[1] = byte(g.IntN(4))
	}
	put16(b[4:], g.port())
	return g.sealedICMP(src, dst, b)
}

// informational is an ICMP message that is neither echo nor error.
func (g *Generator) informational(src, dst netip.Addr) []byte {
	b := g.bytes(8 + g.IntN(40))
	b[0], b[1] = byte(pick(g, 9, 10, 13, 14, 15, 16, 17, 18, 30, 42)), 0
	if src.Is6() {
		b[0] = byte(pick(g, 130, 131, 132, 133, 134, 135, 136, 137, 138, 143, 160))
	}
	return g.sealedICMP(src, dst, b)
}

// icmpError is an ICMP error from src to dst about a packet that dst, mostly,
// has sent to somebody.
func (g *Generator) icmpError(src, dst netip.Addr) []byte {
	to := src
	switch {
	case src.Is4() && g.chance(60): // a router on the way tells
		to = g.peer4()
	case src.Is4() && g.chance(10): // about what it cannot have seen
		to = pick(g, g.workload4(), g.nobodys4())
	case src.Is6() && g.chance(30):
		to = g.workload6()
	}
	from := dst
	if g.chance(3) {
		from = g.like(dst)
	}
	quote := g.ip(from, to, true).Bytes
	if g.chance(60) {
		quote = quote[:min(len(quote), pick(g, 28, 48, 56, 60, 100, 128, 200, 508, 548, 576, 1000, 1232, g.IntN(120)))]
	}
	if g.chance(4) && len(quote) > 0 {
		quote[g.IntN(min(len(quote), 60))] = byte(g.Uint32())
	}
	b := make([]byte, 8, 8+len(quote))
	unit, at := 4, 5
	if src.Is4() {
		b[0], b[1] = g.type4()
		binary.BigEndian.PutUint32(b[4:], g.rest4(b[0]))
	} else {
		unit, at = 8, 4
		b[0], b[1] = g.type6()
		binary.BigEndian.PutUint32(b[4:], g.rest6(b[0]))
	}
	if g.chance(25) {
		quote = g.extended(b, quote, at, unit)
	}
	return g.sealedICMP(src, dst, append(b, quote...))
}

// like is another address of the same family.
func (g *Generator) like(a netip.Addr) netip.Addr {
	if a.Is4() {
		return pick(g, g.workload4(), g.odd4(), g.peer4())
	}
	return pick(g, g.workload6(), g.odd6(), g.embed(g.peer4()))
}

// extended pads the quote and puts an extension structure of RFC 4884 behind;
// at times one that lies.
func (g *Generator) extended(head, quote []byte, at, unit int) []byte {
	quote = append([]byte(nil), quote[:min(len(quote), 255*unit, 1100)]...)
	for len(quote) < 128 || len(quote)%unit != 0 {
		quote = append(quote, 0)
	}
	if head[0] == 2 || head[0] == 4 || head[0] == 5 {
		return quote
	}
	head[at] = byte(len(quote) / unit)
	if g.chance(6) {
		head[at] = byte(g.Uint32())
	}
	if g.chance(6) {
		return quote
	}
	object := g.bytes(4 * pick(g, 2, 2, 3, 5, 40, 110, 260))
	put16(object, len(object))
	ext := append([]byte{0x20, 0, 0, 0}, object...)
	put16(ext[2:], int(^checksum.Checksum(ext, 0)))
	return append(quote, ext...)
}

func (g *Generator) type4() (typ, code byte) {
	typ = byte(pick(g, 3, 3, 3, 3, 11, 12, 12, 4, 5))
	switch typ {
	case 3:
		return typ, byte(g.IntN(18))
	case 11:
		return typ, byte(g.IntN(2))
	case 12:
		return typ, byte(pick(g, 0, 0, 2, 1, 3))
	}
	return typ, byte(g.IntN(2))
}

func (g *Generator) rest4(typ byte) uint32 {
	switch typ {
	case 12:
		return uint32(g.IntN(24)) << 24
	case 3:
		return uint32(pick(g, 0, 0, 68, 576, 1280, 1400, 1480, 1500, 9000, 65535))
	}
	return 0
}

func (g *Generator) type6() (typ, code byte) {
	typ = byte(pick(g, 1, 1, 2, 3, 4, 4, 5, 100, 127))
	switch typ {
	case 1:
		return typ, byte(g.IntN(8))
	case 4:
		return typ, byte(pick(g, 0, 0, 0, 1, 2))
	}
	return typ, byte(g.IntN(2))
}

func (g *Generator) rest6(typ byte) uint32 {
	switch typ {
	case 2:
		return uint32(pick(g, 1280, 1281, 1300, 1400, 1500, 9000, 65535, 100000))
	case 4:
		return uint32(pick(g, g.IntN(48), g.IntN(48), g.IntN(48), 1000))
	}
	return 0
}
