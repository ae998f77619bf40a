package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// header6 is a view of an IPv6 header (RFC 8200 3), at least 40 bytes long.
type header6 []byte

const (
	size6        = 40
	sizeFragment = 8 // of a fragment header (RFC 8200 4.5)
	maxHeaders   = 8 // extension headers that we walk through
)

func (h header6) class() uint8       { return uint8(binary.BigEndian.Uint16(h) >> 4) }
func (h header6) payloadLen() int    { return int(binary.BigEndian.Uint16(h[4:])) }
func (h header6) nextHeader() uint8  { return h[6] }
func (h header6) hopLimit() uint8    { return h[7] }
func (h header6) src() mapping.Addr6 { return get6(h[8:]) }
func (h header6) dst() mapping.Addr6 { return get6(h[24:]) }

func get6(b []byte) mapping.Addr6 {
	return mapping.Addr6{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}

// put6 writes an IPv6 header into b[:40]; the flow label is 0.
func put6(b []byte, class uint8, payload int, next, hops uint8, src, dst mapping.Addr6) {
	b = b[:size6:size6]
	binary.BigEndian.PutUint32(b, 6<<28|uint32(class)<<20) // rule 2.flow-label
	binary.BigEndian.PutUint32(b[4:], uint32(uint16(payload))<<16|uint32(next)<<8|uint32(hops))
	binary.BigEndian.PutUint64(b[8:], src.Hi)
	binary.BigEndian.PutUint64(b[16:], src.Lo)
	binary.BigEndian.PutUint64(b[24:], dst.Hi)
	binary.BigEndian.PutUint64(b[32:], dst.Lo)
}

// putFragment writes a fragment header into b[:8]. The offset counts 8 bytes.
func putFragment(b []byte, next uint8, offset uint16, more bool, id uint32) {
	offset <<= 3
	if more {
		offset |= 1
	}
	b[0], b[1] = next, 0
	binary.BigEndian.PutUint16(b[2:], offset)
	binary.BigEndian.PutUint32(b[4:], id)
}

// read6 reads the IPv6 header at the start of b, not what follows it.
func (h *parsed) read6(b []byte, quoted bool) Verdict {
	if len(b) < size6 || b[0]>>4 != 6 {
		return Malformed
	}
	v := header6(b)
	h.length = size6 + v.payloadLen()
	if h.length > len(b) && !quoted {
		return Malformed
	}
	h.class, h.hops = v.class(), v.hopLimit()
	h.src6, h.dst6 = v.src(), v.dst()
	return Forward4
}

// walk6 follows the extension headers of b, which read6 has read, to the upper
// layer, or to the first one behind a fragment header.
func (h *parsed) walk6(b []byte) Verdict { return h.follow6(b, false) }

// follow6 is walk6, which may also go on behind a fragment header.
func (h *parsed) follow6(b []byte, behind bool) Verdict {
	next, at := b[6], size6
	for n := 0; ; n++ {
		if !extension(next) || h.header && !behind {
			h.behind = extension(next)
			h.proto, h.upper = next, at
			return Forward4
		}
		if n == maxHeaders || len(b) < at+8 { // rule 3.chain
			return Malformed
		}
		size := 8
		if next == protoFragment {
			field := binary.BigEndian.Uint16(b[at+2:])
			if h.header && h.offset != 0 {
				field = h.offset<<3 | field&1 // a later fragment stays one, whatever its bytes look like
			}
			h.header = true
			h.offset, h.more = field>>3, field&1 != 0
			h.id = binary.BigEndian.Uint32(b[at+4:])
			h.fragment = h.more || h.offset != 0 // rule 3.atomic
		} else {
			size += int(b[at+1]) * 8
			if next == protoRouting && b[at+3] != 0 && h.route == 0 {
				h.route = at + 3
			}
		}
		if at+size > min(len(b), h.length) {
			return Malformed
		}
		next, at = b[at], at+size
	}
}

// extension says that p is an extension header we walk through (RFC 7915 5.1).
func extension(p uint8) bool {
	return p == protoHopByHop || p == protoRouting || p == protoFragment || p == protoDestination
}
