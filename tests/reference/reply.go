package reference

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// answerable reports whether an ICMP error of ours may answer a packet: it is no
// ICMP error, no later fragment, not from or to a multicast or unspecified
// address, nor as IPv4 from one that names no host there is a way to (section 6).
func answerable(d *datagram) bool {
	if d.src.Is4() && (within(d.src, never4) || within(d.dst, reserved4)) {
		return false
	}
	for _, a := range []netip.Addr{d.src, d.dst} {
		if a.IsMulticast() && !a.Is4In6() || a.IsUnspecified() {
			return false
		}
	}
	if d.later() {
		return false
	}
	return !d.isICMP() || len(d.upper) == 0 || !isError(d.protocol, d.upper[0])
}

// answer is an ICMP error of ours about the packet.
func (c *call) answer(typ, code byte, rest uint32) Packet {
	if c.subject.src.Is4() {
		return c.answer4(c.subject, typ, code, rest)
	}
	return c.answer6(c.subject, typ, code, rest)
}

func (c *call) answer4(d *datagram, typ, code byte, rest uint32) Packet {
	e := &datagram{src: c.t.IPv4, dst: d.src, ttl: 64, protocol: icmp4, df: c.hints.DontFragment}
	e.id = c.hints.Identification
	if !e.df {
		e.id = max(1, e.id)
	}
	e.upper = c.about(c.in.Bytes[:min(d.total, 576-28)], typ, code, rest)
	e.claimed = len(e.upper)
	binary.BigEndian.PutUint16(e.upper[2:], ^checksum.Checksum(e.upper, 0))
	return Packet{Bytes: c.write4(e)}
}

func (c *call) answer6(d *datagram, typ, code byte, rest uint32) Packet {
	e := &datagram{src: c.t.IPv6, dst: d.src, ttl: 64, protocol: icmp6}
	e.upper = c.about(c.in.Bytes[:min(d.total, 1280-48)], typ, code, rest)
	e.claimed = len(e.upper)
	x := ^checksum.Checksum(e.upper, e.pseudoSum())
	binary.BigEndian.PutUint16(e.upper[2:], x)
	return Packet{Bytes: c.write6(e)}
}

// about is an ICMP error without its checksum.
func (c *call) about(quote []byte, typ, code byte, rest uint32) []byte {
	b := c.t.bytes(8 + len(quote))
	b[0], b[1], b[2], b[3] = typ, code, 0, 0
	binary.BigEndian.PutUint32(b[4:], rest)
	copy(b[8:], quote)
	return b
}
