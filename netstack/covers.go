package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/translator/mapping"
)

// covers says whether a packet is to be translated. IPv4 becomes IPv6 on its way
// out of a client, and on its way in to others, if it belongs to a mapped
// address. The other way, IPv6 becomes IPv4 if it goes to, or comes from, an
// address that stands for an IPv4 one.
func (e *endpoint) covers(b *bytesOf, protocol tcpip.NetworkProtocolNumber, out bool) bool {
	var head [errorHeaders]byte
	h := head[:b.peek(head[:])]
	table := e.t.Table()
	switch protocol {
	case header.IPv4ProtocolNumber:
		if out != e.client || len(h) < header.IPv4MinimumSize {
			return false
		}
		mine := h[16:20]
		if e.client {
			mine = h[12:16]
		}
		return table.Lookup4(binary.BigEndian.Uint32(mine)) != nil
	case header.IPv6ProtocolNumber:
		if out == e.client || len(h) < header.IPv6MinimumSize {
			return false
		}
		src, dst := addr6(h[8:]), addr6(h[24:])
		if !e.client {
			return standsFor4(table, dst)
		}
		return table.Lookup6(dst) != nil && (standsFor4(table, src) || quotes4(table, h))
	}
	return false
}

// errorHeaders is as much of a packet as covers looks at: up to the addresses of
// what an ICMPv6 error quotes.
const errorHeaders = header.IPv6MinimumSize + header.ICMPv6MinimumSize + header.IPv6MinimumSize

// quotes4 says that an ICMPv6 error, from wherever, is about a packet to an
// address that stands for an IPv4 one.
func quotes4(table *mapping.Table, h []byte) bool {
	const quote = header.IPv6MinimumSize + header.ICMPv6MinimumSize
	return len(h) == errorHeaders && h[6] == uint8(header.ICMPv6ProtocolNumber) && h[40] < 128 &&
		standsFor4(table, addr6(h[quote+24:]))
}

func standsFor4(table *mapping.Table, a mapping.Addr6) bool {
	if _, ok := table.Extract(a); ok {
		return true
	}
	return table.Lookup6(a) != nil
}

func addr6(b []byte) mapping.Addr6 {
	return mapping.Addr6{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}
