package shed

import (
	"encoding/binary"
	"math"

	"github.com/natless/natless/translator/mapping"
)

const (
	protoICMP4 = 1
	protoTCP   = 6
	protoICMP6 = 58

	flagsSYN    = 0x02
	flagsSYNACK = 0x12
)

// strangersErrors is the slot of ICMPv6 errors that are no workload's: routers on the way to
// workloads send them, the host itself among these, and without "too big" no download goes on.
// Who floods with senders that he made up is to take none of theirs.
const strangersErrors = math.MaxUint32

// Stranger says that a slot is nobody's.
func Stranger(slot uint32) bool { return slot == 0 || slot == strangersErrors }

// whose finds the workload that sent an IPv6 packet, or that an IPv4 packet is for:
// slot 0 is nobody, or nobody that can be told. opens says that it opens a TCP
// connection.
func whose(t *mapping.Table, b []byte) (slot uint32, w Way, opens bool) {
	switch {
	case len(b) >= 40 && b[0]>>4 == 6:
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
	a := binary.BigEndian.Uint32(b[16:])
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
