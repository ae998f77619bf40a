package dataplane

import (
	"encoding/binary"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/translator"
)

// flowStart is when start was, by the clock that flows have.
var flowStart = flows.Now()

// flowTable is where a driver itemises flows.
type flowTable struct {
	*flows.Table // nil: nowhere
	now          int64
	id           uint16 // of an IPv4 packet, if it is an echo message
	held         bool   // how long it was when it came is not known any more
}

// before looks at a packet that is to be translated: the identifier of an echo message
// is another one behind it, where a workload shares its address.
func (f *flowTable) before(p *translator.Packet) {
	f.id = 0
	if b := p.Buf[p.Start:p.End]; len(b) >= 28 && b[0] == 0x45 && b[9] == 1 {
		f.id = binary.BigEndian.Uint16(b[24:])
	}
}

// add counts a packet that was translated, which came in a direction with size bytes.
func (f *flowTable) add(w *translator.Worker, p *translator.Packet, direction Direction, size int) {
	seen := flows.Packet{Bytes: p.Buf[p.Start:p.End], Length: size, ID: f.id}
	if seen.Source, seen.Target = w.Slots(); seen.Source|seen.Target == 0 {
		return
	}
	switch six := seen.Bytes[0]>>4 == 6; {
	case six:
		seen.Src, seen.Dst = w.Addrs4()
		if direction == To4 { // a hairpin, which was IPv4 in between
			seen.Length -= 20
		} else if f.held { // a fragment, then
			seen.Length = len(seen.Bytes) - 28
		}
	default:
		seen.Length = len(seen.Bytes)
	}
	if p.GSOType&^translator.GSOECN != translator.GSONone {
		seen.GSO = int(p.GSOSize)
	}
	seen.Rule = ruleOf(w)
	f.AddPacket(&seen, f.now)
}

// refuse counts the last packet of a worker, which policies denied.
func (f *flowTable) refuse(w *translator.Worker, v translator.Verdict) {
	d, way := w.Denial(), flows.Received
	k := flows.Key{Local: d.Local, Remote: d.Remote, Slot: d.Slot, LocalPort: d.LocalPort, RemotePort: d.FarPort, Proto: d.Proto, Verdict: flows.Denied}
	if v.Reason() == translator.DeniedFragment {
		k.Verdict = flows.DeniedFragment
	}
	if d.Proto == 1 {
		k.RemotePort = uint16(d.ICMPType)<<8 | uint16(d.ICMPCode)
	}
	if d.Out {
		way = flows.Sent
	}
	packets, bytes := flows.Wire(d.Length, d.Headers, d.Segment)
	f.Refuse(k, way, packets, bytes, d.TCPFlags, ruleOf(w), f.now)
}
