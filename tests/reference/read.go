package reference

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/translator"
)

// fragment is what a fragment header, or the fields of an IPv4 header, say.
// Offset counts bytes.
type fragment struct {
	offset int
	more   bool
	id     uint32
}

// datagram is an IP packet taken apart, of either family.
type datagram struct {
	src, dst  netip.Addr
	tos, ttl  byte
	protocol  byte
	df        bool
	id        uint16
	frag      *fragment // nil: not a fragment
	upper     []byte    // from the upper-layer header on
	upperAt   int       // where upper starts in the packet
	claimed   int       // length of upper as the header says; greater than len(upper) only in quotes
	total     int       // length of the packet as its header says
	badOption bool
	route     bool // an unexpired source route

	segmentsLeft int  // where a routing header still has some; 0: nowhere
	behind       bool // an extension header behind the fragment header
}

func (d *datagram) later() bool { return d.frag != nil && d.frag.offset != 0 }

// atomic says that there is a fragment header around a whole packet.
func (d *datagram) atomic() bool {
	return d.frag != nil && d.frag.offset == 0 && !d.frag.more
}

func (d *datagram) fragmented() bool { return d.frag != nil && !d.atomic() }

func (d *datagram) isICMP() bool {
	return d.src.Is4() && d.protocol == 1 || d.src.Is6() && d.protocol == 58
}

// beyond: a fragment that no datagram can be long enough for.
func (d *datagram) beyond() bool { return d.frag != nil && d.frag.offset+d.claimed > 65535 }

// read4 takes an IPv4 packet apart. A quoted one may be cut short, and nobody
// verifies its checksum. The verdict is ok, Malformed or BadChecksum.
func read4(b []byte, quoted bool) (*datagram, translator.Verdict) {
	if len(b) < header.IPv4MinimumSize || b[0]>>4 != 4 {
		return nil, translator.Malformed
	}
	ip := header.IPv4(b)
	ihl, total := int(b[0]&0xf)*4, int(ip.TotalLength())
	if ihl < 20 || ihl > len(b) || total < ihl || total > len(b) && !quoted {
		return nil, translator.Malformed
	}
	if !quoted && !ip.IsChecksumValid() {
		return nil, translator.BadChecksum
	}
	d := &datagram{
		src:      netip.AddrFrom4([4]byte(b[12:16])),
		dst:      netip.AddrFrom4([4]byte(b[16:20])),
		tos:      b[1],
		ttl:      b[8],
		protocol: b[9],
		df:       b[6]&0x40 != 0,
		id:       ip.ID(),
		upper:    b[ihl:min(total, len(b))],
		upperAt:  ihl,
		claimed:  total - ihl,
		total:    total,
	}
	if offset, more := int(ip.FragmentOffset()), ip.More(); offset != 0 || more {
		d.frag = &fragment{offset: offset, more: more, id: uint32(ip.ID())}
	}
	d.route, d.badOption = readOptions(b[20:ihl])
	return d, ok
}

// readOptions looks for an unexpired source route (RFC 791 3.1) and for options
// that run out of their area or point at themselves.
func readOptions(b []byte) (route, bad bool) {
	for len(b) > 0 {
		switch b[0] {
		case 0:
			return route, false
		case 1:
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return route, true
		}
		if b[0] == 131 || b[0] == 137 {
			if b[1] < 3 || b[2] < 4 {
				return route, true
			}
			route = route || b[2] <= b[1]
		}
		b = b[b[1]:]
	}
	return route, false
}

// hasRoute: the area starts with a source route, used up or not.
func hasRoute(b []byte) bool { return b[0] == 131 || b[0] == 137 }

// maxHeaders is how many extension headers a packet may have.
const maxHeaders = 8

// read6 takes an IPv6 packet apart. Where its headers do not fit, it is given
// as far as they do.
func read6(b []byte, quoted bool) (*datagram, translator.Verdict) {
	if len(b) < header.IPv6MinimumSize || b[0]>>4 != 6 {
		return nil, translator.Malformed
	}
	ip := header.IPv6(b)
	total := 40 + int(ip.PayloadLength())
	if total > len(b) && !quoted {
		return nil, translator.Malformed
	}
	b = b[:min(total, len(b))]
	tos, _ := ip.TOS()
	d := &datagram{
		src:      netip.AddrFrom16([16]byte(b[8:24])),
		dst:      netip.AddrFrom16([16]byte(b[24:40])),
		tos:      tos,
		ttl:      ip.HopLimit(),
		protocol: b[6],
		total:    total,
	}
	at, headers := 40, 0
	for isExtension(d.protocol) {
		d.behind = d.behind || d.frag != nil
		if headers++; headers > maxHeaders || at+8 > len(b) {
			return d, translator.Malformed
		}
		h, length := b[at:], 8
		switch d.protocol {
		case 44:
			f := readFragmentHeader(h)
			if d.frag != nil && d.frag.offset != 0 {
				f = d.frag
			}
			d.frag = f
		default:
			length = 8 + 8*int(h[1])
			if d.protocol == 43 && h[3] != 0 && d.segmentsLeft == 0 {
				d.segmentsLeft = at + 3
			}
		}
		if at+length > len(b) {
			return d, translator.Malformed
		}
		d.protocol = h[0]
		at += length
		if d.later() && d.protocol != 44 {
			d.behind = d.behind || isExtension(d.protocol)
			break // what follows is not a header
		}
	}
	d.upper, d.upperAt, d.claimed = b[at:], at, total-at
	return d, ok
}

// isExtension: hop-by-hop options, routing, fragment, destination options.
func isExtension(protocol byte) bool {
	return protocol == 0 || protocol == 43 || protocol == 44 || protocol == 60
}

func readFragmentHeader(h []byte) *fragment {
	f := binary.BigEndian.Uint16(h[2:])
	return &fragment{offset: int(f &^ 7), more: f&1 != 0, id: binary.BigEndian.Uint32(h[4:])}
}
