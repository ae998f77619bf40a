package generate

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// view is where the parts of a packet are, as far as it has them.
type view struct {
	upper    int // where the upper layer starts
	protocol byte
}

// look finds the upper layer of a packet; ok is false where it has none.
func look(b []byte) (v view, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		v = view{int(b[0]&15) * 4, b[9]}
	case len(b) >= 40 && b[0]>>4 == 6:
		v = view{40, b[6]}
		for n := 0; n < 10 && v.upper+8 <= len(b); n++ {
			switch h := b[v.upper:]; v.protocol {
			case 0, 43, 60:
				v.protocol, v.upper = h[0], v.upper+8+8*int(h[1])
			case 44:
				v.protocol, v.upper = h[0], v.upper+8
			default:
				return v, v.upper <= len(b)
			}
		}
	default:
		return v, false
	}
	return v, v.upper <= len(b)
}

// quoting says that the upper layer is an ICMP error with a quote.
func (v view) quoting(b []byte) bool {
	if len(b) < v.upper+8+20 {
		return false
	}
	switch typ := b[v.upper]; v.protocol {
	case 1:
		return typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12
	case 58:
		return typ < 128
	}
	return false
}

// Change changes a packet in one place. p.Bytes must have room behind it, or
// the packet does not grow.
func (g *Generator) Change(p *reference.Packet) {
	b := p.Bytes
	v, ok := look(b)
	if !ok || g.IntN(12) == 0 {
		g.changeBytes(p)
		return
	}
	if v.quoting(b) && g.chance(60) { // of the quoted packet, or of the message
		if g.chance(25) {
			g.changeMessage(b, v)
			return
		}
		inner := b[v.upper+8:]
		if v, ok = look(inner); ok {
			g.changePacket(inner, v)
		}
		return
	}
	switch g.IntN(16) {
	case 0:
		g.changeOffload(p, v)
	case 1:
		g.changeSize(p)
	default:
		g.changePacket(b, v)
	}
}

// changeBytes knows nothing of packets.
func (g *Generator) changeBytes(p *reference.Packet) {
	b := p.Bytes
	if len(b) == 0 {
		return
	}
	at := g.IntN(min(len(b), pick(g, 20, 40, 64, 128, 65536)))
	switch g.IntN(6) {
	case 0, 1:
		b[at] ^= 1 << g.IntN(8)
	case 2, 3:
		b[at] = byte(g.Uint32())
	case 4:
		b[at] = pick(g, byte(0), 1, 0x7f, 0x80, 0xff)
	case 5:
		if at+2 <= len(b) {
			put16(b[at:], pick(g, 0, 0xffff, g.IntN(1<<16)))
		}
	}
}

// changeSize cuts a packet or makes it longer, and mostly says so in its header.
func (g *Generator) changeSize(p *reference.Packet) {
	n := len(p.Bytes)
	switch g.IntN(4) {
	case 0:
		n = g.IntN(n + 1)
	case 1:
		n = max(1, n+g.IntN(17)-8)
	case 2:
		n = pick(g, 1, 20, 28, 40, 48, 68, 575, 576, 577, 1239, 1240, 1241, 1259, 1260, 1261, 1279, 1280, 1281,
			1380, 1400, 1420, 1460, 1472, 1480, 1481, 1499, 1500, 1501)
	case 3:
		n = g.IntN(1600)
	}
	n = min(max(n, 1), cap(p.Bytes))
	for at := len(p.Bytes); at < n; at++ {
		p.Bytes = append(p.Bytes, 0)
	}
	p.Bytes = p.Bytes[:n]
	if g.chance(85) {
		resize(p.Bytes)
	}
}

// resize makes the length in the header that of the packet.
func resize(b []byte) {
	if len(b) >= 40 && b[0]>>4 == 6 {
		put16(b[4:], len(b)-40)
	} else if len(b) >= 20 && b[0]>>4 == 4 {
		put16(b[2:], len(b))
	}
}

// changePacket changes one field of a packet or of a quoted one.
func (g *Generator) changePacket(b []byte, v view) {
	six := b[0]>>4 == 6
	switch g.IntN(12) {
	case 0, 1, 2:
		g.changeAddress(b, six)
	case 3, 4, 5, 6:
		g.changeUpper(b, v)
	case 7:
		g.changeMessage(b, v)
	case 8:
		g.changeFragment(b, six)
	case 9: // hop limit, class
		if six {
			b[7] = byte(pick(g, 0, 1, 2, 64, 255))
			b[1] = byte(g.Uint32())
		} else {
			b[8] = byte(pick(g, 0, 1, 2, 64, 255))
			b[1] = byte(g.Uint32())
		}
	case 10:
		protocol := byte(pick(g, 1, 6, 17, 33, 58, 132, 136, 50, 51, 0, 43, 44, 60, 59, 135, 139, 140, g.IntN(256)))
		if six {
			b[6] = protocol
		} else {
			b[9] = protocol
		}
	case 11:
		g.changeLength(b, six)
	}
}

func (g *Generator) changeLength(b []byte, six bool) {
	at, n := 2, len(b)
	if six {
		at, n = 4, len(b)-40
	}
	put16(b[at:], pick(g, n, n-1, n+1, 0, 1, 8, 19, 20, 27, 28, 65535, 65515, 65516, 1240, 1241, 1260, 1261, g.IntN(1<<16)))
}

func (g *Generator) changeAddress(b []byte, six bool) {
	var a netip.Addr
	switch source := g.chance(50); {
	case six:
		a = pick6(g)
		s := a.As16()
		if source {
			copy(b[8:24], s[:])
		} else {
			copy(b[24:40], s[:])
		}
	default:
		a = pick4(g)
		s := a.As4()
		if source {
			copy(b[12:16], s[:])
		} else {
			copy(b[16:20], s[:])
		}
	}
}

func pick4(g *Generator) netip.Addr {
	switch g.IntN(8) {
	case 0, 1, 2:
		return g.workload4()
	case 3:
		return g.nobodys4()
	case 4:
		return g.odd4()
	}
	return g.peer4()
}

func pick6(g *Generator) netip.Addr {
	switch g.IntN(12) {
	case 0, 1, 2:
		return g.workload6()
	case 3:
		return g.odd6()
	case 4:
		return g.embed(g.nobodys4())
	case 5, 6, 7:
		return g.embed(g.workload4())
	}
	return g.embed(g.peer4())
}

// changeUpper changes a header of the upper layer: ports, lengths, checksums.
func (g *Generator) changeUpper(b []byte, v view) {
	if v.upper > len(b) {
		return
	}
	l4 := b[v.upper:]
	at, value := 0, g.port()
	switch g.IntN(6) {
	case 0:
	case 1:
		at = 2
	case 2:
		at = 4 // identifier, or length
	case 3:
		at, value = 4, pick(g, len(l4), len(l4)+1, len(l4)-1, 0, 7, 8, g.IntN(1<<16))
	case 4:
		at, value = pick(g, 2, 6, 16), pick(g, 0, 0, 0xffff, g.IntN(1<<16))
	case 5:
		at, value = 12, pick(g, 0x50, 0x60, 0xf0, 0x40, 0, g.IntN(256))<<8
	}
	if at+2 <= len(l4) {
		put16(l4[at:], value)
	}
}

// changeMessage changes type, code or the rest of the header of an ICMP message.
func (g *Generator) changeMessage(b []byte, v view) {
	if v.protocol != 1 && v.protocol != 58 || v.upper+8 > len(b) {
		return
	}
	m := b[v.upper:]
	if g.chance(50) {
		if v.protocol == 1 {
			m[0], m[1] = g.type4()
		} else {
			m[0], m[1] = g.type6()
		}
	}
	switch g.IntN(5) {
	case 0:
		m[1] = byte(g.IntN(18))
	case 1:
		binary.BigEndian.PutUint32(m[4:], g.rest4(m[0]))
	case 2:
		binary.BigEndian.PutUint32(m[4:], g.rest6(m[0]))
	case 3:
		m[pick(g, 4, 5)] = byte(pick(g, 0, 1, 5, 16, 32, 33, len(m)/4, len(m)/8, g.IntN(256)))
	case 4:
		put16(m[6:], pick(g, 0, 1, 67, 68, 576, 1259, 1260, 1279, 1280, 1300, 1480, 1500, 65535, g.IntN(1<<16)))
	}
}

// changeFragment changes what says which part of a datagram this is.
func (g *Generator) changeFragment(b []byte, six bool) {
	field := pick(g, 0, 0, 1, g.IntN(1<<13), 8191, 100)
	if !six {
		put16(b[6:], field|pick(g, 0, 0, 0x4000, 0x2000, 0x8000, 0x6000))
		return
	}
	at := 40
	for next := b[6]; next == 0 || next == 43 || next == 60 || next == 44; {
		if at+8 > len(b) {
			return
		}
		if next == 44 {
			put16(b[at+2:], field<<3|pick(g, 0, 1, 1, 6))
			return
		}
		next, at = b[at], at+8+8*int(b[at+1])
	}
}

// changeOffload changes what the virtio-net header says: rightly or at random.
func (g *Generator) changeOffload(p *reference.Packet, v view) {
	o := &p.Offload
	switch g.IntN(10) {
	case 0:
		o.Flags = byte(pick(g, 0, 1, 2, 3, g.IntN(256)))
	case 1:
		o.GSOType = byte(pick(g, 0, 1, 3, 4, 5, 0x80, 0x81, 0x84, 0x85, g.IntN(256)))
	case 2:
		o.GSOSize = uint16(pick(g, 0, 1, 1200, 1228, 1240, 1440, 1460, 65535, g.IntN(1<<16)))
	case 3:
		o.CsumStart = uint16(pick(g, 0, 20, 40, 48, v.upper, v.upper+1, g.IntN(1<<16)))
	case 4:
		o.CsumOffset = uint16(pick(g, 0, 2, 6, 16, g.IntN(1<<16)))
	case 5:
		o.HdrLen = uint16(g.Uint32())
	case 6:
		*o = translator.Offload{}
	default:
		g.offloads(p, v)
	}
}

// offloads gives a packet those offloads that a kernel would.
func (g *Generator) offloads(p *reference.Packet, v view) {
	o := translator.Offload{Flags: needsChecksum, CsumStart: uint16(v.upper)}
	switch v.protocol {
	case 6:
		o.CsumOffset, o.GSOType = 16, translator.GSOTCPv4
		if p.Bytes[0]>>4 == 6 {
			o.GSOType = translator.GSOTCPv6
		}
	case 17:
		o.CsumOffset, o.GSOType = 6, translator.GSOUDPL4
	default:
		return
	}
	if o.GSOSize = g.gsoSize(max(1, len(p.Bytes)-v.upper-8)); g.chance(50) {
		o.GSOType, o.GSOSize = 0, 0
	}
	p.Offload = o
}

// repairICMP makes the checksum of an ICMP error right, or nobody looks into it.
func repairICMP(b []byte) {
	v, ok := look(b)
	if !ok || !v.quoting(b) {
		return
	}
	n := len(b)
	if b[0]>>4 == 4 {
		n = min(n, int(binary.BigEndian.Uint16(b[2:])))
	} else {
		n = min(n, 40+int(binary.BigEndian.Uint16(b[4:])))
	}
	if n < v.upper+8 {
		return
	}
	m := b[v.upper:n]
	put16(m[2:], 0)
	var sum uint16
	if v.protocol == 58 && b[0]>>4 == 6 {
		var tail [8]byte
		binary.BigEndian.PutUint32(tail[:], uint32(len(m)))
		tail[7] = 58
		sum = checksum.Checksum(tail[:], checksum.Checksum(b[8:40], 0))
	}
	put16(m[2:], int(^checksum.Checksum(m, sum)))
}
