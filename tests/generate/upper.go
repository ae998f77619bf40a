package generate

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/translator"
)

const needsChecksum = translator.FlagNeedsCsum

// upper is what stands behind the IP headers, and the offloads that fit it.
func (g *Generator) upper(src, dst netip.Addr, at piece, quoted bool) (protocol byte, b []byte, off translator.Offload) {
	icmp := byte(1)
	if src.Is6() {
		icmp = 58
	}
	if at.offset > 0 && !g.chance(5) {
		return byte(pick(g, 6, 17, 17, 132, 50, 51, 60)), g.bytes(g.size()), off
	}
	switch n := g.IntN(100); {
	case n < 28:
		b, off = g.tcp(src, dst, at, quoted)
		return 6, b, off
	case n < 54:
		b, off = g.udp(src, dst, at, quoted)
		return 17, b, off
	case n < 66:
		return icmp, g.echo(src, dst), off
	case n < 70:
		return icmp, g.informational(src, dst), off
	case n < 88 && (!quoted || g.chance(10)):
		return icmp, g.icmpError(src, dst), off
	case n < 90:
		return 132, g.ported(12), off
	case n < 93:
		b = g.ported(8)
		put16(b[4:], pick(g, 0, 8, len(b)))
		return 136, g.sealed(src, dst, 136, 6, b), off
	case n < 96:
		b = g.ported(16)
		b[4] = byte(4)
		return 33, g.sealed(src, dst, 33, 6, b), off
	}
	return byte(pick(g, 50, 51, 47, 2, 4, 59, 89, 255, 135, 139, 140, 253, 0, 43, 44, 60)), g.bytes(g.size()), off
}

// size is a payload length with a taste for the edges.
func (g *Generator) size() int {
	switch g.IntN(10) {
	case 0:
		return 1150 + g.IntN(130)
	case 1:
		return 1200 + g.IntN(300)
	case 2:
		return g.IntN(3000)
	case 3:
		return pick(g, 0, 1, 7, 8, 9, 1180, 1232, 1240, 1260, 1280, 1440, 1460, 1472, 1480)
	}
	return g.IntN(64)
}

func (g *Generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		var w [8]byte
		binary.NativeEndian.PutUint64(w[:], g.Uint64())
		copy(b[i:], w[:])
	}
	return b
}

// port is a port with a taste for the edges of the port sets.
func (g *Generator) port() int {
	if g.chance(20) {
		return g.IntN(1 << 16)
	}
	return pick(g, 0, 80, 81, 1023, 1024, 1500, 2047, 2048, 3000, 3071, 3072, 4096, 4099, 4100, 5000, 5999, 8080, 8081, 8082, 32767, 32768)
}

// ported is a header of n bytes that starts with ports, and a payload.
func (g *Generator) ported(n int) []byte {
	b := g.bytes(n + g.size())
	put16(b[0:], g.port())
	put16(b[2:], g.port())
	return b
}

// pseudo is the sum of the pseudo header.
func pseudo(src, dst netip.Addr, protocol byte, n int) uint16 {
	if protocol == 1 {
		return 0
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, 0, 0, 0, protocol)
	return checksum.Checksum(b, 0)
}

// sealed puts the checksum in: right, at times wrong.
func (g *Generator) sealed(src, dst netip.Addr, protocol byte, at int, b []byte) []byte {
	put16(b[at:], 0)
	sum := ^checksum.Checksum(b, pseudo(src, dst, protocol, len(b)))
	if g.chance(4) {
		sum = uint16(g.Uint32())
	}
	if sum == 0 && protocol == 17 {
		sum = 0xffff
	}
	put16(b[at:], int(sum))
	return b
}

func (g *Generator) tcp(src, dst netip.Addr, at piece, quoted bool) ([]byte, translator.Offload) {
	words := 5
	if g.chance(30) {
		words = 5 + g.IntN(11)
	}
	b := g.ported(4 * words)
	super := !at.fragment() && !at.atomic && !quoted && g.chance(15)
	if super {
		b = append(b, g.bytes(g.superSize(src, len(b)))...)
	}
	b[12] = byte(words) << 4
	if g.chance(1) {
		b[12] = byte(g.Uint32())
	}
	b = g.sealed(src, dst, 6, 16, b)
	if at.fragment() || quoted || (!super && !g.chance(15)) {
		return b, translator.Offload{}
	}
	put16(b[16:], int(pseudo(src, dst, 6, len(b))))
	off := translator.Offload{Flags: needsChecksum, CsumOffset: 16}
	if super {
		b[12] = byte(words) << 4
		off.GSOType = translator.GSOTCPv4
		if src.Is6() {
			off.GSOType = translator.GSOTCPv6
		}
		if g.chance(20) {
			off.GSOType |= translator.GSOECN
		}
		off.GSOSize = g.gsoSize(len(b) - 4*words)
		off.HdrLen = uint16(g.IntN(200))
	}
	return b, off
}

// superSize is how much is in a superpacket behind head bytes: at times all that
// there may be, or nearly.
func (g *Generator) superSize(src netip.Addr, head int) int {
	if !g.chance(10) {
		return 1 + g.IntN(65000-head)
	}
	most := 65535
	if src.Is4() {
		most -= 20
	}
	return most - head - pick(g, 0, 0, 1, 7, 8, 14, 19, 20, 21, 35, 40, 60)
}

// gsoSize is the payload of a segment: never more than there is in all.
func (g *Generator) gsoSize(all int) uint16 {
	n := pick(g, 1200, 1216, 1220, 1228, 1240, 1360, 1380, 1400, 1408, 1420, 1440, 1448, 1460, 100, 536, 8900)
	return uint16(max(1, min(n, all)))
}

func (g *Generator) udp(src, dst netip.Addr, at piece, quoted bool) ([]byte, translator.Offload) {
	b := g.ported(8)
	super := !at.fragment() && !at.atomic && !quoted && g.chance(10)
	if super {
		b = append(b, g.bytes(g.superSize(src, len(b)))...)
	}
	put16(b[4:], len(b))
	if at.more {
		put16(b[4:], len(b)+8*(1+g.IntN(100)))
	} else if g.chance(2) {
		put16(b[4:], g.IntN(len(b)+10))
	}
	b = g.sealed(src, dst, 17, 6, b)
	if at.fragment() || quoted || (!super && !g.chance(15)) {
		if g.chance(15) {
			put16(b[6:], 0)
		}
		return b, translator.Offload{}
	}
	put16(b[4:], len(b))
	put16(b[6:], int(pseudo(src, dst, 17, len(b))))
	if g.chance(2) {
		put16(b[6:], 0)
	}
	off := translator.Offload{Flags: needsChecksum, CsumOffset: 6}
	if super {
		off.GSOType, off.GSOSize, off.HdrLen = translator.GSOUDPL4, g.gsoSize(len(b)-8), uint16(g.IntN(100))
	}
	return b, off
}
