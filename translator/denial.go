package translator

import (
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Denial is a packet that policies denied, as IPv4 has it or would have it, from the
// point of view of the workload that is held to them.
type Denial struct {
	Slot          uint32 // of the workload
	Local, Remote uint32 // IPv4 addresses, the workload's and the other's
	Out           bool   // the workload sent it

	Proto              uint8  // of IPv4
	LocalPort, FarPort uint16 // where the packet has them; of an echo message the identifier is the local one
	ICMPType, ICMPCode uint8
	TCPFlags           uint8

	Length  int // of the packet as IPv4, from its IP header on
	Headers int // of it, those that each segment of a superpacket has
	Segment int // bytes of data in a segment of a superpacket, or 0
}

// Denial is what is known of the last packet. It means something only where its verdict
// is Denied or DeniedFragment, until the next packet.
func (w *Worker) Denial() *Denial { return &w.denial }

// deny notes a packet that is denied, whose addresses are translated.
func (w *Worker) deny(p *Packet, h *parsed, e *mapping.Entry, q *policy.Packet) {
	l4 := p.Bytes()[h.upper:]
	d := Denial{Slot: e.Slot(), Local: h.dst4, Remote: q.Remote, Out: q.Out, Proto: q.Proto, Length: h.length - h.upper + size4}
	if q.Out {
		d.Local = h.src4
	}
	d.Headers = size4
	if p.Bytes()[0]>>4 == 4 { // with its options
		d.Length, d.Headers = h.length, h.upper
	}
	if !q.Later {
		d.LocalPort, d.FarPort = q.Local, q.Far
	}
	switch {
	case !h.first():
	case h.proto == protoTCP && len(l4) >= sizeTCP:
		d.TCPFlags, d.Headers = l4[13], d.Headers+int(l4[12]>>4)*4
	case h.proto == protoUDP:
		d.Headers += 8
	case q.Proto == protoICMP4 && !q.Later: // an echo message, of which both ends are one flow
		d.ICMPType, d.FarPort = icmp4EchoRequest, 0
	}
	if p.GSOType&^GSOECN != GSONone {
		d.Segment = int(p.GSOSize)
	}
	w.keepDenial(&d)
}

func (w *Worker) keepDenial(d *Denial) {
	w.denial = *d
	if !w.trial {
		w.s.denials.at(d.Slot).Add(1)
	}
}

// denyError notes an ICMP error that is denied: of e's workload (out) or for it, with the
// IPv4 type and code.
func (w *Worker) denyError(p *Packet, h *parsed, e *mapping.Entry, local uint32, out bool, typ, code uint8) {
	d := Denial{Slot: e.Slot(), Local: local, Remote: h.src4, Out: out, Proto: protoICMP4, ICMPType: typ, ICMPCode: code,
		Length: h.length, Headers: h.upper}
	if out {
		d.Remote = h.dst4
	}
	if p.Bytes()[0]>>4 == 6 {
		d.Length, d.Headers = h.length-h.upper+size4, size4
	}
	w.keepDenial(&d)
}
