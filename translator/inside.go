package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// A workload may have its IPv4 address itself, alone or with others that share it.
// Nothing is translated between it and IPv4: what it sends is held to its address
// and its ports, and passes; what is for it is given to it. In between, the
// identification moves into the workload's share, and so does that of an echo
// request, since what comes back shows nothing else.

// Pass4 judges an IPv4 packet that a workload with IPv4 inside sent, which a tag
// names. On Pass4 it is to be written to the device, as it is.
func (w *Worker) Pass4(p *Packet, of mapping.Tag) Verdict {
	w.begin()
	if !p.roomy() {
		return Malformed
	}
	e := w.t.tagged(w.s.table, of)
	if e == nil || !e.Inside() || !w.s.inside {
		return UntranslatableSource // it has gone
	}
	var h parsed
	b := p.Bytes()
	if v := h.read4(b, false); v.IsDrop() {
		return v
	}
	p.End = p.Start + h.length
	w.source = e.Slot()
	if h.src4 != e.Addr4() { // rule 1.6.source
		return w.refuse4(p, e, SpoofedSource, icmp4Unreachable, icmp4Prohibited, 0)
	}
	return w.pass4(p, &h, e)
}

func (w *Worker) pass4(p *Packet, h *parsed, e *mapping.Entry) Verdict {
	b := p.Bytes()
	upperLen, ok := 0, true
	if h.first() {
		upperLen, ok = upperSize(h.proto, b[h.upper:], h.fragment)
	}
	route, formed := options4(b[size4:h.upper])
	if !ok || !formed || !p.checkOffload(h, 4) {
		return Malformed
	}
	if never4(h.dst4) { // rule 1.6.never
		return NeverTranslated
	}
	ends := w.hostOrOwn(h, b)
	if h.hops <= 1 && !ends {
		return w.refuse4(p, e, HopLimitExceeded, icmp4TimeExceeded, 0, 0) // rule 1.6.hop-limit-out
	}
	if route {
		return w.refuse4(p, e, SourceRoute, icmp4Unreachable, icmp4SourceRoute, 0) // rule 1.6.source-route
	}
	trailer, v := w.police4(p, h, e)
	if v.IsDrop() {
		return v
	}
	if e.Policy() != 0 {
		if v := w.judgeOut(p, h, e); v.IsDrop() {
			return v
		}
	}
	if !ends {
		if v := w.fits4(p, h, e, upperLen, trailer); v.IsDrop() || v == Segment {
			return v
		}
	}
	if p.End+trailer > len(p.Buf) {
		return Malformed // the caller's buffer has less room than it must have
	}
	w.share4(p, h, e, trailer)
	if v, ends := w.ends(p, h.dst4); ends {
		if v == Forward4 {
			v = Pass4 // rule 1.6.pass
		}
		return v
	}
	put4hop(p.Bytes(), h) // rule 1.6.one-decrement
	return w.back(p)
}

// hostOrOwn says that a packet is for the host alone, with whom workloads share an
// address, or for the translator's own address: no hop is left for those.
func (w *Worker) hostOrOwn(h *parsed, b []byte) bool {
	return (h.dst4 == w.s.own4 || h.dst4 == w.s.host4) && !w.forWorkload(h, b)
}

// refuse4 is reply4 for a workload with IPv4 inside, which gets it from us alone, and
// out of its own budget: the address that it sent from may be the host's or another's,
// too.
func (w *Worker) refuse4(p *Packet, e *mapping.Entry, reason Verdict, typ, code uint8, rest uint32) Verdict {
	v := w.reply4To(hearer{slot: e.Slot(), addr: uint64(e.Addr4()), group: uint64(e.Slot())}, p, reason, typ, code, rest)
	if v.Replied() {
		w.inside = e.Tag() // rule 1.6.answered
	}
	return v
}

// police4 keeps a workload to its own ports, where it shares its address. It says
// how many bytes of trailer an echo request needs.
func (w *Worker) police4(p *Packet, h *parsed, e *mapping.Entry) (trailer int, v Verdict) {
	l4 := p.Bytes()[h.upper:]
	if h.proto == protoICMP4 && h.first() && icmpError4(l4[0]) {
		return 0, w.policeError4(h, l4, e)
	}
	if !e.Shared() {
		return 0, Pass4
	}
	if !shareable(h.proto) || h.proto == protoICMP6 { // rule 1.6.no-ports
		return 0, ProtocolNotShareable
	}
	if !h.first() {
		return 0, Pass4 // its identification is what keeps it apart
	}
	number, _, known := portsOf(h.proto, l4)
	switch {
	case !known:
		return 0, ICMPUntranslatable // rule 1.6.informational-other
	case e.Owns(number): // rule 1.6.source-port
		return 0, Pass4
	case h.proto == protoICMP4 && h.fragment:
		return 0, ICMPFragment // rule 1.6.echo-fragment
	case h.proto == protoICMP4 && l4[0] == icmp4EchoRequest && p.Flags&FlagNeedsCsum == 0:
		return sizeTrailer, Pass4
	}
	if !w.trial {
		w.s.violations.at(e.Slot()).Add(1)
	}
	return 0, w.refuse4(p, e, PortOutsideSet, icmp4Unreachable, icmp4Prohibited, 0) // rule 1.6.source-port-outside
}

// policeError4 judges an ICMP error that a workload sends: it is about a packet that
// was sent to that workload, or it could end or slow another's connection.
func (w *Worker) policeError4(h *parsed, m []byte, e *mapping.Entry) Verdict {
	if m[0] == icmp4SourceQuench || m[0] == icmp4Redirect {
		return ICMPUntranslatable // rule 1.6.error-types
	}
	if h.fragment {
		return ICMPFragment
	}
	var q parsed
	quote, _ := splitQuote(m[sizeICMP:], int(m[5])*4)
	if v := q.read4(quote, true); v.IsDrop() {
		return v
	}
	if q.dst4 != e.Addr4() { // rule 1.6.error-sender
		return SpoofedSource
	}
	if !e.Shared() {
		return Pass4
	}
	if v := quoted(&q, quote, protoICMP4); v.IsDrop() {
		return v
	}
	_, to := q.ends(quote)
	switch {
	case !shareable(q.proto):
		return ProtocolNotShareable
	case !q.first():
		return FragmentUnknown
	case !to.known:
		return Malformed
	case !e.Owns(to.number): // rule 1.6.quoted-outside
		return PortOutsideSet
	}
	if mtu := binary.BigEndian.Uint16(m[6:]); m[0] == icmp4Unreachable && m[1] == icmp4TooBig && mtu < minMTU6 {
		// Its link carries IPv6, and all who share the address would be slowed (RFC 8021); rule 1.6.error-mtu.
		binary.BigEndian.PutUint16(m[6:], minMTU6)
		binary.BigEndian.PutUint16(m[2:], update(binary.BigEndian.Uint16(m[2:]), difference(uint64(mtu), minMTU6)))
	}
	return Pass4
}

// fits4 judges the destination and the size of a packet that is not for a workload.
// The size of one that is for a workload is judged when it is delivered.
func (w *Worker) fits4(p *Packet, h *parsed, e *mapping.Entry, upperLen, trailer int) Verdict {
	segment := p.segmentLen(h.upper+upperLen, h.length) + trailer
	switch {
	case h.length+trailer > maxMTU && p.GSOType == GSONone:
		return w.refuse4(p, e, TooBig, icmp4Unreachable, icmp4TooBig, uint32(maxMTU-trailer))
	case w.s.table.Lookup4(h.dst4) != nil:
		if !h.df && p.GSOType != GSONone && segment > w.s.config.LowestMTU6 {
			return Segment // before anything is written: each goes by itself
		}
	case w.s.nobodys4(h.dst4):
		return w.refuse4(p, e, UntranslatableDestination, icmp4Unreachable, icmp4Host, 0) // rule 1.6.nobody
	case h.df && segment > w.s.mtu4:
		return w.refuse4(p, e, TooBig, icmp4Unreachable, icmp4TooBig, uint32(w.s.mtu4-trailer)) // rule 1.6.too-big
	}
	return Pass4
}

// share4 moves what a packet shows of its workload into what that one has of a
// shared address: the identification, also of a whole packet that nobody may cut up,
// which is free (RFC 6864 4.1), and that of an echo request.
func (w *Worker) share4(p *Packet, h *parsed, e *mapping.Entry, trailer int) {
	p.settle4(h)
	if !e.Shared() {
		return
	}
	p.End += trailer
	b := p.Bytes()
	if trailer > 0 {
		foldEcho(&w.s.config.Key, e.To6(h.src4), e.EchoRange(), b[h.upper:]) // rule 1.6.echo-fold
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	}
	h.id = uint32(w.identification(e, uint16(h.id)))
	binary.BigEndian.PutUint16(b[4:], uint16(h.id)) // rule 1.6.identification
	seal4(b, h.upper)
}

// settle4 has the offload fields be those of the packet as it is.
func (p *Packet) settle4(h *parsed) {
	p.HdrLen = 0
	if p.Flags&FlagNeedsCsum != 0 || p.GSOType != GSONone {
		upperLen, _ := upperSize(h.proto, p.Bytes()[h.upper:], h.fragment)
		p.HdrLen = uint16(h.upper + upperLen)
	}
}

// put4hop counts a hop.
func put4hop(b []byte, h *parsed) {
	b[8]--
	seal4(b, h.upper)
}

// seal4 makes the checksum of an IPv4 header of size bytes.
func seal4(b []byte, size int) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:size])))
}
