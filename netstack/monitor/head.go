package monitor

import (
	"encoding/binary"
	"net/netip"
)

// Head is what filters and people ask about in a packet. The zero Head is of no
// packet.
type Head struct {
	Valid    bool // src, dst and proto could be read
	v6       bool
	Fragment bool // not the whole datagram
	Ports    bool // Source and Destination ports are known
	Proto    uint8
	TCPFlags uint8 // of TCP
	Src, Dst netip.Addr
	SrcPort  uint16
	DstPort  uint16
	Ident    uint16 // of Echo
	Echo     bool   // a request or reply, whose identifier is known
	Length   int    // of the whole packet
}

// Protocols whose numbers the families do not share, and those with ports.
const (
	protoICMP4   = 1
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoICMP6   = 58
	protoSCTP    = 132
	protoUDPLite = 136
)

// V6 says that the packet goes for IPv6, as whatever is not IPv4 does.
func (h *Head) V6() bool { return h.v6 }

// ICMP says that the packet is ICMP of its own family.
func (h *Head) ICMP() bool {
	return h.Proto == protoICMP4 && !h.V6() || h.Proto == protoICMP6 && h.V6()
}

// MakeHead reads the beginning of a packet of so many bytes. What is cut off or
// malformed is not there.
func MakeHead(b []byte, length int) (h Head) {
	h = Head{Length: length, v6: len(b) > 0 && b[0]>>4 != 4}
	switch {
	case len(b) >= 20 && !h.v6:
		h.Valid, h.Proto = true, b[9]
		h.Src, h.Dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		bits := binary.BigEndian.Uint16(b[6:])
		h.Fragment = bits&0x3fff != 0
		if head := int(b[0]&15) * 4; bits&0x1fff == 0 && head <= len(b) {
			h.upper(b[head:])
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		h.Valid = true
		h.Src, h.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		h.behind6(b[6], b[40:])
	}
	return h
}

// behind6 skips what may stand between the IPv6 header and the upper layer
// (RFC 8200 section 4), a bounded number of headers.
func (h *Head) behind6(next uint8, b []byte) {
	h.Proto = next
	for range 8 {
		size := 8
		switch {
		case len(b) < 8:
			return
		case h.Proto == 0 || h.Proto == 43 || h.Proto == 60: // options, routing
			size += int(b[1]) * 8
		case h.Proto == 44:
			bits := binary.BigEndian.Uint16(b[2:])
			h.Fragment = bits&^6 != 0
			if bits&^7 != 0 {
				h.Proto = b[0]
				return
			}
		default:
			h.upper(b)
			return
		}
		if size > len(b) {
			return
		}
		h.Proto, b = b[0], b[size:]
	}
}

// The types of echo: request and reply, of both families.
func isEcho(proto, typ uint8) bool {
	return proto == protoICMP4 && (typ == 8 || typ == 0) || proto == protoICMP6 && (typ == 128 || typ == 129)
}

func (h *Head) upper(b []byte) {
	if h.ICMP() && len(b) >= 6 && isEcho(h.Proto, b[0]) {
		h.Echo, h.Ident = true, binary.BigEndian.Uint16(b[4:])
	}
	switch h.Proto {
	case protoTCP, protoUDP, protoDCCP, protoSCTP, protoUDPLite:
	default:
		return
	}
	if len(b) < 4 {
		return
	}
	h.Ports, h.SrcPort, h.DstPort = true, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	if h.Proto == protoTCP && len(b) >= 14 {
		h.TCPFlags = b[13]
	}
}
