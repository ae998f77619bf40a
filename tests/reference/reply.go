package reference

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// answerable reports whether an ICMP error of ours may answer a packet: it is no
// ICMP error, no later fragment, not from or to a multicast or unspecified
// address (section 6).
func answerable(d *datagram) bool {
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

// answer4 makes ICMPv4 errors about the packet d.
func (c *call) answer4(d *datagram) func(typ, code byte, rest uint32) *Packet {
	return func(typ, code byte, rest uint32) *Packet {
		quote := c.in.Bytes[:min(d.total, 576-28)]
		e := &datagram{src: c.t.IPv4, dst: d.src, ttl: 64, protocol: icmp4, df: c.hints.DontFragment}
		e.id = c.hints.Identification
		if !e.df {
			e.id = max(1, e.id)
		}
		e.upper = binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest)
		e.upper = append(e.upper, quote...)
		e.claimed = len(e.upper)
		binary.BigEndian.PutUint16(e.upper[2:], ^checksum.Checksum(e.upper, 0))
		return &Packet{Bytes: write4(e)}
	}
}

// answer6 makes ICMPv6 errors about the packet d.
func (c *call) answer6(d *datagram) func(typ, code byte, rest uint32) *Packet {
	return func(typ, code byte, rest uint32) *Packet {
		quote := c.in.Bytes[:min(d.total, 1280-48)]
		e := &datagram{src: c.t.IPv6, dst: d.src, ttl: 64, protocol: icmp6}
		e.upper = binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest)
		e.upper = append(e.upper, quote...)
		e.claimed = len(e.upper)
		x := ^checksum.Checksum(e.upper, checksum.Checksum(pseudo(e.src, e.dst, icmp6, e.claimed), 0))
		binary.BigEndian.PutUint16(e.upper[2:], x)
		return &Packet{Bytes: write6(e)}
	}
}
