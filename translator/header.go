package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// Protocol numbers (IANA).
const (
	protoHopByHop    = 0
	protoICMP4       = 1
	protoTCP         = 6
	protoUDP         = 17
	protoDCCP        = 33
	protoRouting     = 43
	protoFragment    = 44
	protoAH          = 51
	protoICMP6       = 58
	protoDestination = 60
	protoSCTP        = 132
	protoMobility    = 135
	protoUDPLite     = 136
	protoHIP         = 139
	protoShim6       = 140
)

// parsed is what the headers of a packet say, of either family.
type parsed struct {
	src6, dst6 mapping.Addr6
	src4, dst4 uint32
	length     int    // of the packet, from its IP header on
	trailer    int    // bytes of a valid trailer behind it, of an echo reply
	upper      int    // where the upper layer starts
	route      int    // where segments left stands in a routing header that is not used up; else 0
	id         uint32 // identification
	offset     uint16 // of a fragment, in units of 8 bytes
	proto      uint8  // of the upper layer
	class      uint8  // traffic class or TOS
	hops       uint8  // hop limit or TTL
	df         bool   // do not fragment; IPv4
	more       bool   // more fragments follow
	fragment   bool   // a real one: it has an offset, or more follow
	header     bool   // has a fragment header, perhaps an atomic one; IPv6
	behind     bool   // an extension header stands behind the fragment header
}

// beyond says that a fragment reaches past the end of what the longest datagram
// has: cut up or put together, its offset would start again at 0.
func (h *parsed) beyond() bool { return int(h.offset)*8+h.length-h.upper > maxMTU } // rule 7.fragment-end

// first says that the packet holds the start of its upper layer.
func (h *parsed) first() bool { return h.offset == 0 }

// upperSize is the size of the upper layer's header; 0 for a protocol whose header
// the translator does not read. ok is false if the header does not fit in l4.
func upperSize(proto uint8, l4 []byte, fragment bool) (size int, ok bool) { // rule 7.upper-header
	switch proto {
	case protoTCP:
		if len(l4) < 20 {
			return 0, false
		}
		size = int(l4[12]>>4) * 4
		return size, size >= 20 && size <= len(l4)
	case protoUDP:
		if len(l4) < 8 {
			return 0, false
		}
		length := int(binary.BigEndian.Uint16(l4[4:]))
		return 8, length >= 8 && (length <= len(l4) || fragment)
	case protoUDPLite, protoICMP4, protoICMP6:
		return 8, len(l4) >= 8
	case protoSCTP, protoDCCP:
		return 12, len(l4) >= 12
	}
	return 0, true
}

// checksumOffset is where the checksum stands in an upper layer whose checksum
// covers the pseudo header, or -1. SCTP's does not.
func checksumOffset(proto uint8) int {
	switch proto {
	case protoTCP: // rule 4.tcp
		return 16
	case protoUDP, protoUDPLite, protoDCCP: // rules 4.udp, 4.udp-lite, 4.dccp
		return 6
	case protoICMP4, protoICMP6:
		return 2
	}
	return -1 // rules 4.sctp, 4.other
}

// portsOf are the source and destination port of an upper layer; for ICMP echo
// both are its identifier. ok is false where there are none, or not in l4.
func portsOf(proto uint8, l4 []byte) (src, dst uint16, ok bool) {
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP:
		if len(l4) >= 4 {
			return binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:]), true
		}
	case protoICMP4, protoICMP6:
		if len(l4) >= 6 && echo(proto, l4[0]) {
			id := binary.BigEndian.Uint16(l4[4:])
			return id, id, true
		}
	}
	return 0, 0, false
}

// untranslatable says that proto cannot be carried over: the check of IPsec AH
// covers addresses (RFC 4302 3.3.3), and the others are extension headers of
// IPv6 (RFC 7045 2), which no IPv4 packet may bring about; HIP's checksum covers
// addresses, too (RFC 7401 5.1.1). ESP covers nothing outside of itself.
func untranslatable(proto uint8) bool {
	return proto == protoAH || proto == protoMobility || proto == protoHIP || proto == protoShim6
}

// shareable says that proto has ports, so that workloads may share an address.
func shareable(proto uint8) bool { // rule 1.3.no-ports
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP, protoICMP4, protoICMP6:
		return true
	}
	return false
}
