package shed

import (
	"encoding/binary"
	"math"

	"github.com/natless/natless/translator/mapping"
)

const (
	protoICMP4 = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58

	protoFragment            = 44
	echoRequest6, echoReply6 = 128, 129

	flagsSYN    = 0x02
	flagsSYNACK = 0x12
)

// strangersErrors is the slot of ICMPv6 errors that are no workload's: routers on the way to
// workloads send them, the host itself among these, and without "too big" no download goes on.
// Who floods with senders that he made up is to take none of theirs.
const strangersErrors = math.MaxUint32

// Stranger says that a slot is nobody's.
func Stranger(slot uint32) bool { return slot == 0 || slot == strangersErrors }

// whose finds the workload that sent an IPv6 packet, or that an IPv4 packet is for, or one
// of the fabric where the host is an edge (else that is nil): slot 0 is nobody, or nobody that
// can be told. opens says that it opens a TCP connection.
func whose(t, edge *mapping.Table, b []byte) (slot uint32, w Way, opens bool) {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
		if edge != nil {
			a := mapping.Addr6{Hi: binary.BigEndian.Uint64(b[24:]), Lo: binary.BigEndian.Uint64(b[32:])}
			if e := edge.Lookup6(a); e != nil {
				return receiver6(t, e.To4(a), b), Received, b[6] == protoTCP && len(b) > 53 && b[53]&flagsSYNACK == flagsSYN
			}
		}
		e := t.Lookup6(mapping.Addr6{Hi: binary.BigEndian.Uint64(b[8:]), Lo: binary.BigEndian.Uint64(b[16:])})
		switch {
		case e != nil:
			slot = e.Slot()
		case b[6] == protoICMP6 && len(b) > 40 && b[40] < 128: // RFC 4443 2.1
			slot = strangersErrors
		}
		return slot, Sent, b[6] == protoTCP && len(b) > 53 && b[53]&flagsSYNACK == flagsSYN
	case len(b) >= 20 && b[0]>>4 == 4:
		return receiver(t, b), Received, b[9] == protoTCP && opens4(b)
	}
	return 0, Sent, false
}

// receiver is the workload that an IPv4 packet is for.
func receiver(t *mapping.Table, b []byte) uint32 {
	return owner(t, binary.BigEndian.Uint32(b[16:]), portOf, b)
}

// receiver6 is the workload that a packet of the fabric is for, by the IPv4 address that its
// destination stands for.
func receiver6(t *mapping.Table, a uint32, b []byte) uint32 { return owner(t, a, portOf6, b) }

// owner is the workload that has an IPv4 address, or of it the port of a packet.
func owner(t *mapping.Table, a uint32, portOf func([]byte) (uint16, bool), b []byte) uint32 {
	e := t.Lookup4(a)
	if e == nil {
		return 0
	}
	if !e.Shared() {
		return e.Slot()
	}
	port, ok := portOf(b)
	if !ok {
		return 0
	}
	if e = t.Port(e, a, port); e == nil {
		return 0
	}
	return e.Slot()
}

// portOf6 is portOf for IPv6, which neither relays nor an edge send with an extension header
// but that of fragments.
func portOf6(b []byte) (port uint16, ok bool) {
	next, at, ok := first6(b, 0)
	way := 2 // the destination port
	if ok && next == protoICMP6 && len(b) > at {
		switch b[at] {
		case echoRequest6, echoReply6:
			way = 4
		default:
			next, at, ok = first6(b, at+8) // of what the error quotes
			if way = 0; next == protoICMP6 {
				way = 4
			}
		}
	}
	if at += way; !ok || len(b) < at+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[at:]), true
}

// first6 is what the packet that begins at a place has behind its header and that of fragments,
// and where; ok says that it has a number to choose by: it is no later fragment, and has no
// other extension header.
func first6(b []byte, at int) (next byte, upper int, ok bool) {
	if len(b) < at+40 {
		return 0, 0, false
	}
	next, at = b[at+6], at+40
	if next == protoFragment {
		if len(b) < at+8 || binary.BigEndian.Uint16(b[at+2:])>>3 != 0 {
			return 0, 0, false
		}
		next, at = b[at], at+8
	}
	return next, at, next == protoTCP || next == protoUDP || next == protoICMP6
}

// portOf is the number that chooses the workload of a shared address: the destination
// port, the identifier of an echo message, or the source port of a packet that an
// error quotes.
func portOf(b []byte) (port uint16, ok bool) {
	at := int(b[0]&15)*4 + 2
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return 0, false
	}
	if b[9] == protoICMP4 && len(b) > at {
		switch b[at-2] {
		case 0, 8:
			at += 2
		default:
			if at += 6; len(b) <= at+9 {
				return 0, false
			}
			quoted := b[at:]
			if at += int(quoted[0]&15) * 4; quoted[9] == protoICMP4 {
				at += 4
			}
		}
	}
	if len(b) < at+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[at:]), true
}

func opens4(b []byte) bool {
	flags := int(b[0]&15)*4 + 13
	return len(b) > flags && binary.BigEndian.Uint16(b[6:])&0x1fff == 0 && b[flags]&flagsSYNACK == flagsSYN
}
