package translator

import "encoding/binary"

// checkOffload says whether the virtio-net header agrees with the packet. An
// offload that names another place than the one we rewrite would make the
// device spoil the packet.
func (p *Packet) checkOffload(h *parsed, version int) bool {
	if p.Flags&FlagNeedsCsum != 0 {
		if h.fragment || int(p.CsumStart) != h.upper || int(p.CsumOffset) != checksumOffset(h.proto) {
			return false
		}
	}
	if p.GSOType == GSONone {
		return true
	}
	if h.header || h.fragment || p.GSOSize == 0 { // rule 5.gso-size
		return false
	}
	switch p.GSOType &^ GSOECN {
	case GSOTCPv4:
		return version == 4 && h.proto == protoTCP
	case GSOTCPv6:
		return version == 6 && h.proto == protoTCP
	case GSOUDPL4:
		return h.proto == protoUDP && p.GSOType == GSOUDPL4 // rule 5.gso-udp
	}
	return false // GSOUDP too: no device of ours offers it; rule 5.mismatch
}

// moved brings the offload fields to the upper layer's new place. HdrLen is
// made anew: what came in is a hint at best (VIRTIO 1.2, 5.1.6.2.1).
func (p *Packet) moved(upper, upperLen int) { // rule 5.whole
	p.HdrLen = 0
	if p.Flags&FlagNeedsCsum != 0 {
		p.CsumStart = uint16(upper) // rule 5.csum-start
		p.HdrLen = uint16(upper + upperLen)
	}
	switch p.GSOType &^ GSOECN {
	case GSONone:
		return
	case GSOTCPv4:
		p.GSOType = GSOTCPv6 | p.GSOType&GSOECN // rule 5.gso-type
	case GSOTCPv6:
		p.GSOType = GSOTCPv4 | p.GSOType&GSOECN
	}
	p.HdrLen = uint16(upper + upperLen) // rule 5.hdr-len
}

// segmentLen is the length of the longest packet that p, a packet of length
// bytes whose payload starts at headers, becomes on the wire.
func (p *Packet) segmentLen(headers, length int) int {
	if p.GSOType == GSONone {
		return length
	}
	return min(length, headers+int(p.GSOSize)) // rule 5.segment-size
}

// segments is how many packets p, with payload bytes of payload, becomes.
func (p *Packet) segments(payload int) int {
	if p.GSOType == GSONone || payload <= 0 {
		return 1
	}
	return (payload + int(p.GSOSize) - 1) / int(p.GSOSize)
}

// fixUpper brings the checksum of an upper layer along when its pseudo header
// changed by diff (RFC 7915 4.5, 5.5). What has no checksum, or one that does
// not cover the pseudo header, or is cut off before it, stays.
func fixUpper(proto uint8, l4 []byte, diff uint16, partial bool) {
	at := checksumOffset(proto)
	if at < 0 || proto == protoICMP4 || proto == protoICMP6 || len(l4) < at+2 {
		return
	}
	field := l4[at : at+2]
	old := binary.BigEndian.Uint16(field)
	if partial {
		binary.BigEndian.PutUint16(field, updatePartial(old, diff)) // rule 5.partial
		return
	}
	if proto == protoUDP && old == 0 {
		return // no checksum, and none it stays (RFC 6936); rule 4.zero-forward
	}
	sum := update(old, diff)                                      // rule 4.equally-wrong
	if sum == 0 && (proto == protoUDP || proto == protoUDPLite) { // rule 4.zero-result
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}
