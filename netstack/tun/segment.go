package tun

import (
	"encoding/binary"
	"errors"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/translator"
)

// Protocol numbers and TCP flags (RFC 9293 3.1).
const (
	protoTCP = 6
	protoUDP = 17

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

var errNoSegments = errors.New("not a TCP or UDP superpacket")

// Segmenter cuts a superpacket into the packets that it stands for, with
// complete checksums, as hardware would (Linux: tcp_gso_segment,
// __udp_gso_segment).
type Segmenter struct {
	packet  []byte
	l4      int // offset of the TCP or UDP header
	headers int // offset of the payload
	size    int // payload bytes in a segment
	at      int // offset of the next segment's payload
	index   uint16
	tcp     bool
	noCsum  bool // UDP without a checksum
}

// Reset begins with another superpacket, whose bytes must stay as they are
// until the last Next. It refuses what it cannot cut.
func (s *Segmenter) Reset(p *translator.Packet) error {
	b := p.Bytes()
	proto, l4 := upperLayer(b)
	*s = Segmenter{packet: b, l4: l4, size: int(p.GSOSize)}
	switch p.GSOType &^ translator.GSOECN {
	case translator.GSOTCPv4, translator.GSOTCPv6:
		if proto != protoTCP || len(b) < l4+20 {
			return errNoSegments
		}
		s.tcp = true
		s.headers = l4 + int(b[l4+12]>>4)*4
		if s.headers < l4+20 {
			return errNoSegments
		}
	case translator.GSOUDPL4:
		if proto != protoUDP || len(b) < l4+8 {
			return errNoSegments
		}
		s.headers = l4 + 8
		s.noCsum = p.Flags&translator.FlagNeedsCsum == 0 && b[l4+6] == 0 && b[l4+7] == 0
	default:
		return errNoSegments
	}
	if s.size == 0 || len(b) <= s.headers {
		return errNoSegments
	}
	s.at = s.headers
	return nil
}

// Next puts the next segment into dst, from dst.Start on, and reports whether
// there was one.
func (s *Segmenter) Next(dst *translator.Packet) bool {
	if s.at >= len(s.packet) {
		return false
	}
	payload := s.packet[s.at:min(s.at+s.size, len(s.packet))]
	first, last := s.at == s.headers, s.at+len(payload) == len(s.packet)
	dst.Offload = translator.Offload{}
	dst.End = dst.Start + s.headers + len(payload)
	b := dst.Bytes()
	copy(b, s.packet[:s.headers])
	copy(b[s.headers:], payload)
	if b[0]>>4 == 4 {
		s.finish4(b)
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	}
	if s.tcp {
		s.finishTCP(b, first, last)
	} else {
		s.finishUDP(b)
	}
	s.at += len(payload)
	s.index++
	return true
}

func (s *Segmenter) finish4(b []byte) {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(b[4:])+s.index)
	b[10], b[11] = 0, 0
	checksum.Put(b[10:], ^checksum.Checksum(b[:b[0]&15*4], 0))
}

func (s *Segmenter) finishTCP(b []byte, first, last bool) {
	tcp := b[s.l4:]
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(s.at-s.headers))
	if !first {
		tcp[13] &^= tcpCWR // told once (RFC 3168 6.1.2)
	}
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	tcp[16], tcp[17] = 0, 0
	checksum.Put(tcp[16:], ^checksum.Checksum(tcp, pseudo(b, protoTCP, len(tcp))))
}

func (s *Segmenter) finishUDP(b []byte) {
	udp := b[s.l4:]
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	if s.noCsum {
		return
	}
	udp[6], udp[7] = 0, 0
	checksum.Put(udp[6:], neverZero(^checksum.Checksum(udp, pseudo(b, protoUDP, len(udp)))))
}

// CompleteChecksum turns a partial checksum into a complete one. It says
// false, and changes nothing, when the checksum field is not in the packet.
func CompleteChecksum(p *translator.Packet) bool {
	if p.Flags&translator.FlagNeedsCsum == 0 {
		return true
	}
	b := p.Bytes()
	start, at := int(p.CsumStart), int(p.CsumStart)+int(p.CsumOffset)
	if at+2 > len(b) {
		return false
	}
	sum := ^checksum.Checksum(b[start:], 0) // the field holds the pseudo header's part
	if p.CsumOffset == 6 {                  // UDP: zero would mean none
		sum = neverZero(sum)
	}
	checksum.Put(b[at:], sum)
	p.Flags &^= translator.FlagNeedsCsum
	p.CsumStart, p.CsumOffset = 0, 0
	return true
}

// neverZero: a UDP checksum of zero is sent as all ones (RFC 768).
func neverZero(sum uint16) uint16 {
	if sum == 0 {
		return 0xffff
	}
	return sum
}

// pseudo is the sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1).
func pseudo(b []byte, proto, length int) uint16 {
	addresses := b[8:40]
	if b[0]>>4 == 4 {
		addresses = b[12:20]
	}
	return checksum.Combine(checksum.Checksum(addresses, uint16(proto)), uint16(length))
}

// upperLayer walks to the upper-layer header. A protocol of -1 says that there
// is none: malformed, a fragment or something that no superpacket has.
func upperLayer(b []byte) (proto, at int) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		if at = int(b[0]&15) * 4; at >= 20 && at <= len(b) {
			return int(b[9]), at
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		proto, at = int(b[6]), 40
		for proto == 0 || proto == 43 || proto == 60 { // hop-by-hop, routing, destination options
			if at+8 > len(b) {
				return -1, 0
			}
			proto, at = int(b[at]), at+8+int(b[at+1])*8
		}
		if at <= len(b) {
			return proto, at
		}
	}
	return -1, 0
}
