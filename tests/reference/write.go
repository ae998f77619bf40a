package reference

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// write4 puts an IPv4 packet together.
func (c *call) write4(d *datagram) []byte {
	b := c.t.bytes(20 + len(d.upper))
	clear(b[:20])
	f := header.IPv4Fields{
		TOS:         d.tos,
		TotalLength: uint16(20 + d.claimed),
		ID:          d.id,
		TTL:         d.ttl,
		Protocol:    d.protocol,
		SrcAddr:     tcpip.AddrFrom4(d.src.As4()),
		DstAddr:     tcpip.AddrFrom4(d.dst.As4()),
	}
	if d.df {
		f.Flags |= header.IPv4FlagDontFragment
	}
	if d.frag != nil {
		f.FragmentOffset = uint16(d.frag.offset)
		if d.frag.more {
			f.Flags |= header.IPv4FlagMoreFragments
		}
	}
	ip := header.IPv4(b)
	ip.Encode(&f)
	ip.SetChecksum(^ip.CalculateChecksum())
	copy(b[20:], d.upper)
	return b
}

// write6 puts an IPv6 packet together, with a fragment header if it is one.
func (c *call) write6(d *datagram) []byte {
	ext, next := 0, d.protocol
	if d.frag != nil {
		ext, next = 8, 44
	}
	b := c.t.bytes(40 + ext + len(d.upper))
	clear(b[:40+ext])
	header.IPv6(b).Encode(&header.IPv6Fields{
		TrafficClass:      d.tos,
		PayloadLength:     uint16(ext + d.claimed),
		TransportProtocol: tcpip.TransportProtocolNumber(next),
		HopLimit:          d.ttl,
		SrcAddr:           tcpip.AddrFrom16(d.src.As16()),
		DstAddr:           tcpip.AddrFrom16(d.dst.As16()),
	})
	if d.frag != nil {
		b[40] = d.protocol
		binary.BigEndian.PutUint16(b[42:], uint16(d.frag.offset))
		if d.frag.more {
			b[43] |= 1
		}
		binary.BigEndian.PutUint32(b[44:], d.frag.id)
	}
	copy(b[40+ext:], d.upper)
	return b
}

// fragments6 cuts an IPv6 packet into ones of at most limit bytes.
func (c *call) fragments6(d *datagram, limit int) (out []Packet) {
	whole := fragment{id: uint32(d.id)}
	if d.frag != nil {
		whole = *d.frag
	}
	step := (limit - 48) / 8 * 8
	for at := 0; at < len(d.upper); at += step {
		piece, end := *d, min(at+step, len(d.upper))
		piece.upper, piece.claimed = d.upper[at:end], end-at
		piece.frag = &fragment{
			offset: whole.offset + at,
			more:   whole.more || end < len(d.upper),
			id:     whole.id,
		}
		out = append(out, Packet{Bytes: c.write6(&piece)})
	}
	return out
}
