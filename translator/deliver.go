package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/special"
)

// insideOwner is the workload that an IPv4 packet is for, if that one has its
// address inside. waits is true for a later fragment that does not say yet whose it is.
func (w *Worker) insideOwner(h *parsed, b []byte) (e *mapping.Entry, waits bool) {
	e = w.s.table.Lookup4(h.dst4)
	if e != nil && e.Shared() {
		p := w.portTo6(h, b)
		if !p.known {
			return nil, !h.first()
		}
		e = w.s.table.Port(e, h.dst4, p.number)
	}
	if e == nil || !e.Inside() {
		return nil, false
	}
	return e, false
}

// delivery is what else is known of a packet that is given to a workload.
type delivery struct {
	upperLen int  // of the upper layer's header
	route    bool // an unexpired source route
	from     way
}

// deliver4 gives an IPv4 packet to a workload that has the address inside. Of all
// that it says, its hop count alone changes, and what was put into echo requests.
func (w *Worker) deliver4(p *Packet, h *parsed, e *mapping.Entry, d delivery) Verdict {
	b, from := p.Bytes(), d.from
	w.destination = e.Slot()
	if h.proto == protoICMP4 && h.first() && icmpError4(b[h.upper]) {
		if v := w.errorFor4(h, b[h.upper:], e, from); v.IsDrop() {
			return v
		}
	} else if never4(h.src4) {
		return NeverTranslated
	}
	if h.hops <= 1 && from == arrived {
		return w.reply4(p, HopLimitExceeded, icmp4TimeExceeded, 0, 0) // rule 1.6.deliver-expired
	}
	if d.route {
		return w.reply4(p, SourceRoute, icmp4Unreachable, icmp4SourceRoute, 0)
	}
	if v := w.judgeIn(p, h, e, from); v.IsDrop() { // rule 1.7.inside
		return v
	}
	if e.Shared() && h.first() && h.fragment {
		_, number, _ := portsOf(h.proto, b[h.upper:])
		w.firstFragment(h, number)
	}
	cut := w.trailer4(p, h, e)
	if v := w.size4(p, h, d.upperLen, cut); v != Deliver4 {
		return v
	}
	if cut > 0 {
		unfoldEcho(&w.s.config.Key, e.To6(h.dst4), b[h.upper:]) // rule 1.6.echo-unfold
		p.End -= cut
		binary.BigEndian.PutUint16(b[2:], uint16(h.length-cut))
	}
	p.settle4(h)
	if from == arrived {
		p.Bytes()[8]-- // rule 1.6.hop-limit
	}
	seal4(p.Bytes(), h.upper)
	w.inside = e.Tag()
	return Deliver4
}

// trailer4 is how many bytes there are behind an echo reply of what went out behind
// the request.
func (w *Worker) trailer4(p *Packet, h *parsed, e *mapping.Entry) int {
	l4 := p.Bytes()[h.upper:]
	if !e.Shared() || h.proto != protoICMP4 || h.fragment || l4[0] != icmp4EchoReply || p.Flags&FlagNeedsCsum != 0 ||
		!trailed(&w.s.config.Key, e.To6(h.dst4), l4) {
		return 0
	}
	return sizeTrailer
}

// size4 judges the size of a packet for a workload's link, and has one cut up that
// may be.
func (w *Worker) size4(p *Packet, h *parsed, upperLen, trailer int) Verdict {
	switch segment := p.segmentLen(h.upper+upperLen, h.length) - trailer; {
	case segment <= w.s.mtu6:
		return Deliver4
	case h.df:
		return w.reply4(p, TooBig, icmp4Unreachable, icmp4TooBig, uint32(w.s.mtu6)) // rule 1.6.deliver-too-big
	case p.GSOType != GSONone:
		return Segment
	}
	p.complete(h)
	w.cut = cutting{active: true, more: h.more} // rule 1.6.cut
	return Deliver4
}

// errorFor4 judges an ICMP error for a workload: it is about a packet of that one.
func (w *Worker) errorFor4(h *parsed, m []byte, e *mapping.Entry, from way) Verdict {
	if m[0] == icmp4SourceQuench || m[0] == icmp4Redirect {
		return ICMPUntranslatable
	}
	if h.fragment {
		return ICMPFragment
	}
	var q parsed
	quote, _ := splitQuote(m[sizeICMP:], int(m[5])*4)
	if v := q.read4(quote, true); v.IsDrop() {
		return v
	}
	_, far := q.ends(quote)
	switch {
	case from != answered && special.Many4(h.src4):
		return NeverTranslated
	case q.src4 != h.dst4, from == arrived && w.s.unrouted(q.dst4, far): // rule 1.6.error-inside
		return SpoofedSource
	}
	if e.Shared() {
		w.unfoldQuote4(m, quote, &q, e)
	}
	return Deliver4
}

// unfoldQuote4 restores the identifier of an echo request that an error quotes to
// its end, or its sender would not know it again. The trailer stays behind it.
func (w *Worker) unfoldQuote4(m, quote []byte, q *parsed, e *mapping.Entry) {
	l4 := q.quotedUpper(quote)
	if q.proto != protoICMP4 || q.fragment || len(l4) < q.length-q.upper || l4[0] != icmp4EchoRequest ||
		!trailed(&w.s.config.Key, e.To6(q.src4), l4) {
		return
	}
	folded, was := binary.BigEndian.Uint16(l4[4:]), binary.BigEndian.Uint16(l4[2:])
	id := binary.BigEndian.Uint16(l4[len(l4)-sizeTrailer+2:])
	is := update(was, difference(uint64(folded), uint64(id)))
	binary.BigEndian.PutUint16(l4[4:], id) // rule 1.6.quote-unfold
	binary.BigEndian.PutUint16(l4[2:], is)
	diff := difference(uint64(folded)+uint64(was), uint64(id)+uint64(is))
	binary.BigEndian.PutUint16(m[2:], update(binary.BigEndian.Uint16(m[2:]), diff))
}

// nextFragment4 is NextFragment for a packet that stays IPv4. Its options go with
// all fragments, also those that the first alone need have (RFC 791 3.1).
func (w *Worker) nextFragment4(p, dst *Packet) bool {
	c := &w.cut
	b := p.Bytes()
	header := header4(b).headerLen()
	if len(b) <= header+c.done {
		c.active = false
		return false
	}
	unit := (w.s.config.LowestMTU6 - header) &^ 7
	payload := b[header+c.done:]
	payload = payload[:min(unit, len(payload))]
	size := header + len(payload)
	if len(dst.Buf) < Headroom+size {
		c.active = false
		return false
	}
	out := dst.Buf[Headroom : Headroom+size]
	copy(out, b[:header])
	copy(out[header:], payload)
	fragment := header4(b).fragment()&maskOffset + uint16(c.done/8)
	if c.more || header+c.done+len(payload) < len(b) {
		fragment |= flagMF
	}
	binary.BigEndian.PutUint16(out[2:], uint16(size))
	binary.BigEndian.PutUint16(out[6:], fragment)
	seal4(out, header)
	dst.Start, dst.End, dst.Offload = Headroom, Headroom+size, Offload{}
	c.done += len(payload)
	return true
}
