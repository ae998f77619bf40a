package generate

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

func put16(b []byte, v int) { binary.BigEndian.PutUint16(b, uint16(v)) }

// Repair makes the IPv4 header checksum right, as far as there is a header.
func Repair(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	n := int(b[0]&0xf) * 4
	if n < 20 || n > len(b) {
		return
	}
	put16(b[10:], 0)
	put16(b[10:], int(^checksum.Checksum(b[:n], 0)))
}

// ip is an IP packet of the family of its addresses. A quoted one stands
// inside of an ICMP error: it quotes no other one, mostly.
func (g *Generator) ip(src, dst netip.Addr, quoted bool) reference.Packet {
	if src.Is4() {
		return g.ip4(src, dst, quoted)
	}
	return g.ip6(src, dst, quoted)
}

// piece says which part of a datagram a packet is.
type piece struct {
	offset int // bytes
	more   bool
	atomic bool // IPv6: a fragment header around the whole
}

func (p piece) fragment() bool { return p.offset > 0 || p.more }

func (g *Generator) piece() piece {
	if !g.chance(12) {
		return piece{}
	}
	if g.chance(5) {
		return piece{offset: 8 * (8191 - g.IntN(200)), more: g.chance(50)}
	}
	return pick(g, piece{more: true}, piece{offset: 8 * (1 + g.IntN(200)), more: true},
		piece{offset: 8 * (1 + g.IntN(200))}, piece{atomic: true})
}

func (g *Generator) hops(quoted bool) byte {
	if quoted {
		return byte(g.IntN(3))
	}
	if g.chance(4) {
		return byte(g.IntN(3))
	}
	return 64
}

func (g *Generator) ip4(src, dst netip.Addr, quoted bool) reference.Packet {
	at := g.piece()
	protocol, upper, off := g.upper(src, dst, at, quoted)
	options := g.options()
	n := 20 + len(options)
	if n+len(upper) > 65535 {
		options, n = nil, 20
	}
	b := make([]byte, n, n+len(upper))
	b[0], b[1], b[8], b[9] = 0x40|byte(n/4), byte(g.Uint32()), g.hops(quoted), protocol
	put16(b[2:], n+len(upper))
	put16(b[4:], g.IntN(1<<16))
	put16(b[6:], at.offset/8)
	if at.more {
		b[6] |= 0x20
	}
	if g.chance(50) && (!at.fragment() || g.chance(10)) {
		b[6] |= 0x40
	}
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	copy(b[20:], options)
	Repair(b)
	if g.chance(1) {
		b[10] ^= 0x10
	}
	return finishOffload(append(b, upper...), n, off)
}

func finishOffload(b []byte, at int, off translator.Offload) reference.Packet {
	if off.Flags&translator.FlagNeedsCsum != 0 {
		off.CsumStart = uint16(at)
	}
	return reference.Packet{Bytes: b, Offload: off}
}

// longRoute is a record route that fills the area.
var longRoute = append([]byte{7, 39, 4}, make([]byte, 37)...)

// options is an options area, mostly empty (RFC 791 3.1).
func (g *Generator) options() []byte {
	if !g.chance(10) {
		return nil
	}
	route := byte(pick(g, 131, 137))
	b := pick(g,
		[]byte{1, 1, 1, 0},
		[]byte{7, 7, 4, 0, 0, 0, 0, 0},                // record route
		[]byte{148, 4, 0, 0},                          // router alert
		[]byte{route, 7, 8, 1, 2, 3, 4},               // source route, expired
		[]byte{route, 7, 4, 1, 2, 3, 4},               // source route
		[]byte{1, route, 11, 8, 1, 2, 3, 4, 5, 6, 7},  // source route, half way
		[]byte{route, 3, 4},                           // source route without addresses: expired
		[]byte{0, route, 7, 4, 1, 2, 3, 4},            // behind the end of the list
		[]byte{route, 7, byte(g.IntN(4)), 1, 2, 3, 4}, // malformed: points at its own header
		[]byte{7, 1},                                  // malformed: length 1
		[]byte{7, 99, 4},                              // malformed: past the area
		[]byte{1, 1, 1, 68},                           // malformed: no length
		longRoute,                                     // the longest header: longer than IPv6's
	)
	b = append([]byte(nil), b...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func (g *Generator) ip6(src, dst netip.Addr, quoted bool) reference.Packet {
	at := g.piece()
	protocol, upper, off := g.upper(src, dst, at, quoted)
	chain := g.chain()
	if at.fragment() || at.atomic {
		h := make([]byte, 8)
		put16(h[2:], at.offset)
		if at.more {
			h[3] |= 1
		}
		binary.BigEndian.PutUint32(h[4:], g.Uint32())
		chain = append(chain, extension{44, h})
		if g.chance(4) {
			chain = append(chain, extension{byte(pick(g, 0, 43, 60, 44)), make([]byte, 8)})
		}
	}
	b := make([]byte, 40)
	b[0] = 0x60
	put16(b[0:], 0x6000|g.IntN(256)<<4|g.IntN(16))
	put16(b[2:], g.IntN(1<<16))
	next := 6 // where the next protocol number goes
	for _, e := range chain {
		b[next] = e.protocol
		next = len(b)
		b = append(b, e.bytes...)
	}
	b[next] = protocol
	b[7] = g.hops(quoted)
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	n := len(b)
	b = append(b, upper...)
	if len(b)-40 > 65535 {
		b = b[:65535+40]
	}
	put16(b[4:], len(b)-40)
	return finishOffload(b, n, off)
}

type extension struct {
	protocol byte
	bytes    []byte
}

// chain is extension headers in front of a fragment header, mostly none.
func (g *Generator) chain() (out []extension) {
	if !g.chance(10) {
		return nil
	}
	n := 1 + g.IntN(3)
	if g.chance(10) {
		n = 6 + g.IntN(4)
	}
	for range n {
		protocol := byte(pick(g, 0, 60, 43))
		b := make([]byte, 8*(1+g.IntN(2)))
		b[1] = byte(len(b)/8 - 1)
		if g.chance(2) {
			b[1] = 200 // past the packet
		}
		b[2] = byte(g.Uint32())
		if protocol == 43 && g.chance(30) {
			b[3] = byte(1 + g.IntN(3))
		}
		out = append(out, extension{protocol, b})
	}
	return out
}
