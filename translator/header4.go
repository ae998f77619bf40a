package translator

import "encoding/binary"

// header4 is a view of an IPv4 header (RFC 791 3.1), at least 20 bytes long.
// gVisor's header package has one too, but would bring its buffers, timers and
// checker machinery into every light program that imports the translator.
type header4 []byte

const (
	size4 = 20 // of a header without options

	flagDF     = 0x4000
	flagMF     = 0x2000
	maskOffset = 0x1fff
)

func (h header4) headerLen() int   { return int(h[0]&15) * 4 }
func (h header4) tos() uint8       { return h[1] }
func (h header4) length() int      { return int(binary.BigEndian.Uint16(h[2:])) }
func (h header4) id() uint16       { return binary.BigEndian.Uint16(h[4:]) }
func (h header4) fragment() uint16 { return binary.BigEndian.Uint16(h[6:]) } // flags and offset
func (h header4) ttl() uint8       { return h[8] }
func (h header4) protocol() uint8  { return h[9] }
func (h header4) src() uint32      { return binary.BigEndian.Uint32(h[12:]) }
func (h header4) dst() uint32      { return binary.BigEndian.Uint32(h[16:]) }

// put4 writes an IPv4 header without options into b[:20], checksum included.
func put4(b []byte, tos uint8, length int, id, fragment uint16, ttl, proto uint8, src, dst uint32) {
	b = b[:size4:size4]
	first := 0x45<<24 | uint32(tos)<<16 | uint32(uint16(length)) // rule 3.version
	second := uint32(id)<<16 | uint32(fragment)
	third := uint32(ttl)<<24 | uint32(proto)<<16
	third |= uint32(^fold(uint64(first) + uint64(second) + uint64(third) + uint64(src) + uint64(dst))) // rule 4.ipv4-header-made
	binary.BigEndian.PutUint32(b, first)
	binary.BigEndian.PutUint32(b[4:], second)
	binary.BigEndian.PutUint32(b[8:], third)
	binary.BigEndian.PutUint32(b[12:], src)
	binary.BigEndian.PutUint32(b[16:], dst)
}

// read4 reads the IPv4 header at the start of b. A quoted packet may be cut
// short behind its header, and nobody vouches for its checksum.
func (h *parsed) read4(b []byte, quoted bool) Verdict {
	if len(b) < size4 || b[0]>>4 != 4 {
		return Malformed
	}
	v := header4(b)
	h.upper, h.length = v.headerLen(), v.length()
	if h.upper < size4 || h.upper > len(b) || h.length < h.upper || h.length > len(b) && !quoted { // rule 7.malformed
		return Malformed
	}
	if !quoted && fold(sum(b[:h.upper])) != 0xffff { // rule 4.ipv4-header
		return BadChecksum
	}
	f := v.fragment()
	h.class, h.hops, h.proto = v.tos(), v.ttl(), v.protocol()
	h.src4, h.dst4 = v.src(), v.dst()
	h.df, h.more, h.offset = f&flagDF != 0, f&flagMF != 0, f&maskOffset
	h.id = uint32(v.id())
	h.fragment = h.more || h.offset != 0 // rule 2.fragment-length
	h.header = h.fragment
	if !quoted && h.beyond() {
		return Malformed
	}
	return Forward4
}

// Options that matter (RFC 791 3.1). All others are dropped without a look.
const (
	optionEnd         = 0
	optionNop         = 1
	optionLooseRoute  = 131
	optionStrictRoute = 137

	leastPointer = 4 // of a source route: what is before is the option's own header
)

// options4 walks the options of an IPv4 header: ok is false where their
// lengths disagree or a source route points at itself, route is true for one that is not used up.
func options4(options []byte) (route, ok bool) {
	for len(options) > 0 {
		kind := options[0]
		if kind == optionEnd {
			return route, true
		}
		if kind == optionNop {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) { // rule 2.options-malformed
			return route, false
		}
		if kind == optionLooseRoute || kind == optionStrictRoute {
			if options[1] < 3 || options[2] < leastPointer {
				return route, false
			}
			// Used up once its pointer has passed its length.
			route = route || options[2] <= options[1] // rule 2.source-route-expired
		}
		options = options[options[1]:] // rule 2.options-dropped
	}
	return route, true
}
