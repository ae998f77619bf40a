package translator

import (
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// longestDF0 is the longest IPv4 packet that leaves with DF=0 (RFC 7915 5.1):
// with an IPv6 header in front it still fits the least IPv6 MTU.
const longestDF0 = 1260

// to4 translates any IPv6 packet (RFC 7915 5). plainTo4 has had a look at it.
func (w *Worker) to4(p *Packet) Verdict {
	var h parsed
	b := p.Bytes()
	if v := h.read6(b, false); v.IsDrop() {
		return v
	}
	p.End = p.Start + h.length
	b = b[:h.length]
	if w.s.spoofed6(h.src6) {
		return SpoofedSource
	}
	if h.dst6 == w.s.own6 {
		return Local
	}
	if v := h.walk6(b); v.IsDrop() {
		return v
	}
	if h.fragment && h.beyond() {
		return Malformed
	}
	upperLen, ok := 0, true
	if h.first() && !h.behind {
		upperLen, ok = upperSize(h.proto, b[h.upper:], h.fragment)
	}
	if !ok || !p.checkOffload(&h, 6) {
		return Malformed
	}
	if h.proto == protoICMP6 && !h.fragment && icmpError6(b[h.upper]) {
		if v := w.errorTo4(p, &h); v.IsDrop() {
			return v
		}
		return w.onward(p, h.dst4)
	}
	e, v := w.addressesTo4(p, &h)
	if v.IsDrop() {
		return v
	}
	if e != nil && e.Inside() { // rule 1.6.closed
		return w.reply6(p, PrefixClosed, icmp6Unreachable, icmp6Prohibited, 0)
	}
	if v := w.headersTo4(p, &h); v.IsDrop() {
		return v
	}
	trailer, v := w.shareTo4(p, &h, e)
	if v.IsDrop() {
		return v
	}
	if e != nil && e.Policy() != 0 {
		if v := w.judgeOut(p, &h, e); v.IsDrop() {
			return v
		}
	}
	if v := w.finishTo4(p, &h, e, upperLen, trailer); v != Forward4 {
		return v
	}
	if !w.ce.IsZero() && !w.trial {
		w.s.rules.CountTo4(w.ce, w.loop)
	}
	return w.onward(p, h.dst4)
}

// addressesTo4 translates both addresses. Its mapping is that of the source, or nil.
func (w *Worker) addressesTo4(p *Packet, h *parsed) (e *mapping.Entry, v Verdict) {
	if never6(h.src6) || never6(h.dst6) {
		return nil, NeverTranslated
	}
	if h.src4, e, v = w.s.address4(h.src6, UntranslatableSource); v.IsDrop() {
		switch {
		case v == NeverTranslated:
			return nil, v
		case v == UntranslatableSource && w.firstUse(h):
			return nil, FirstUse // rule 1.9.first-use
		}
		if !w.trial {
			w.s.rules.CountSpoofed(h.src6)
		}
		return nil, w.reply6(p, v, icmp6Unreachable, icmp6SourcePolicy, 0) // rules 3.untranslatable-source, 1.8.source-policy
	}
	w.source = slotOf(e)
	if e == nil {
		_, w.ce, _, _ = w.s.rules.To4(h.src6)
	}
	if h.dst4, _, v = w.s.destination4(h.dst6); v.IsDrop() {
		if v == NeverTranslated {
			return nil, v
		}
		return nil, w.reply6(p, v, icmp6Unreachable, icmp6NoRoute, 0) // rule 3.untranslatable-destination
	}
	return e, Forward4
}

// headersTo4 judges hop limit, extension headers and protocol.
func (w *Worker) headersTo4(p *Packet, h *parsed) Verdict {
	if h.hops <= w.s.hop {
		return w.reply6(p, HopLimitExceeded, icmp6TimeExceeded, 0, 0) // rule 3.ttl-out
	}
	if h.route != 0 {
		return w.reply6(p, RoutingHeader, icmp6ParameterProblem, 0, uint32(h.route)) // rule 3.routing-header
	}
	if h.behind {
		return w.reply6(p, HeaderBehindFragment, icmp6Unreachable, icmp6Prohibited, 0) // rule 3.header-behind-fragment
	}
	switch h.proto {
	case protoAH, protoMobility, protoHIP, protoShim6: // rule 3.untranslatable-protocol
		return w.reply6(p, ProtocolUntranslatable, icmp6Unreachable, icmp6Prohibited, 0)
	case protoICMP4:
		return ICMPUntranslatable // ICMPv4 over IPv6 would turn up as the real one
	case protoICMP6:
		if h.fragment {
			return ICMPFragment // rule 3.icmp-fragment
		}
		if l4 := p.Bytes()[h.upper:]; !echo(protoICMP6, l4[0]) || l4[1] != 0 { // rule 6.echo-code
			return ICMPUntranslatable
		}
	}
	return Forward4
}

// shareTo4 keeps a workload that shares its IPv4 address to its own ports. It
// says how many bytes of trailer an echo message needs.
func (w *Worker) shareTo4(p *Packet, h *parsed, e *mapping.Entry) (trailer int, v Verdict) {
	if !w.shares(e) {
		return 0, Forward4
	}
	if !shareable(h.proto) {
		return 0, ProtocolNotShareable
	}
	if !h.first() {
		return 0, Forward4 // goes with its first fragment, or for nothing
	}
	l4 := p.Bytes()[h.upper:]
	number, _, _ := portsOf(h.proto, l4) // rule 1.3.echo-own
	if w.owns(e, number) {               // rule 1.3.source-port
		return 0, Forward4
	}
	if h.proto == protoICMP6 && l4[0] == icmp6EchoRequest && p.Flags&FlagNeedsCsum == 0 {
		return sizeTrailer, Forward4
	}
	w.countOutside(e)
	return 0, w.reply6(p, PortOutsideSet, icmp6Unreachable, icmp6Prohibited, 0) // rule 1.3.source-port-outside
}

// finishTo4 sees to the size of a packet about which all else is settled, and
// rewrites it.
func (w *Worker) finishTo4(p *Packet, h *parsed, e *mapping.Entry, upperLen, trailer int) Verdict {
	length := h.length - h.upper + size4 + trailer // rule 3.total-length
	segment := p.segmentLen(h.upper+upperLen, h.length) - h.upper + size4 + trailer
	df := !h.header && segment > longestDF0 // rule 3.df
	switch {
	case df && segment > w.s.mtu4 || length > maxMTU && p.GSOType == GSONone:
		mtu := max(minMTU6, w.s.mtu4+size6-size4-trailer)       // rule 1.3.echo-mtu
		return w.reply6(p, TooBig, icmp6TooBig, 0, uint32(mtu)) // rule 3.too-big
	case length > maxMTU: // rule 7.length
		return Segment
	}
	if p.End+trailer > len(p.Buf) {
		return Malformed // the caller's buffer has less room than it must have
	}
	p.End += trailer
	w.upperTo4(p, h, e, trailer)
	var fragment, id uint16
	switch {
	case h.header:
		id = w.identification(e, uint16(h.id)) // rules 3.identification-fragment, 3.df-fragment
		fragment = h.offset                    // rule 3.mf-offset
		if h.more {
			fragment |= flagMF
		}
	case df:
		fragment = flagDF // rule 3.identification-df
	default:
		id = w.nextID(e, p.segments(h.length-h.upper-upperLen)) // rule 3.identification-counter
	}
	class, proto := h.class, h.proto // rules 3.tos, 3.protocol
	if w.s.zeroClass {               // rule 3.tos-knob
		class = 0
	}
	if proto == protoICMP6 {
		proto = protoICMP4 // rule 3.protocol-icmp
	}
	p.Start += h.upper - size4                                                          // rule 3.extension-headers
	put4(p.Bytes(), class, length, id, fragment, h.hops-w.s.hop, proto, h.src4, h.dst4) // rules 3.ttl, 3.addresses
	p.moved(size4, upperLen)
	return Forward4
}

// upperTo4 translates the upper layer where it stands. trailer bytes behind it
// are still to be written.
func (w *Worker) upperTo4(p *Packet, h *parsed, e *mapping.Entry, trailer int) {
	if !h.first() {
		return
	}
	l4 := p.Buf[p.Start+h.upper : p.End]
	partial := p.Flags&FlagNeedsCsum != 0
	if h.proto != protoICMP6 {
		fixUpper(h.proto, l4, difference(addresses6(h.src6, h.dst6), addresses4(h.src4, h.dst4)), partial)
		return
	}
	message := l4[:len(l4)-trailer]
	echoTo4(message, h.src6, h.dst6, len(message), partial)
	if trailer > 0 {
		foldEcho(&w.s.config.Key, w.sender6(e, h), w.echoRange(e), l4) // rule 1.3.echo-fold
	}
}

// onward says where a packet that is IPv4 now goes: out, to the local stack, or
// back to where workloads are, if its destination is one of them, too (RFC 7757 4.2.2).
func (w *Worker) onward(p *Packet, dst uint32) Verdict {
	if v, ends := w.ends(p, dst); ends {
		return v
	}
	return w.back(p)
}

// ends says that a packet that is IPv4 now is for no workload, and where it goes.
func (w *Worker) ends(p *Packet, dst uint32) (v Verdict, ends bool) {
	if dst == w.s.own4 {
		var h parsed
		if h.read4(p.Bytes(), false); !w.forWorkload(&h, p.Bytes()) {
			return Local, true
		}
	} else if w.s.client || !w.s.has4(dst) {
		return Forward4, true
	} else if dst == w.s.host4 {
		var h parsed
		b := p.Bytes()
		h.read4(b, false)
		request := h.proto == protoICMP4 && h.first() && b[h.upper] == icmp4EchoRequest
		if request || !w.forWorkload(&h, b) { // the host answers for the address, as it does to others; rule 1.4.host
			return Forward4, true
		}
	}
	return 0, false
}

// back takes a packet that is IPv4 now, and whose hop is counted, to a workload.
func (w *Worker) back(p *Packet) Verdict {
	w.ce = mapt.CE{}          // what is of an answer is not its
	v := w.to6(p, hairpinned) // rule 1.4.hairpin
	if v == Forward6 {
		return Hairpin
	}
	if v.Replied() && !w.to6(p, answered).IsForward() {
		return v.Reason() // the sender cannot be told; rule 1.4.answered
	}
	return v
}

// identification puts an IPv4 identification into the share of the space that
// the workload has (RFC 7599 10.3).
func (w *Worker) identification(e *mapping.Entry, id uint16) uint16 {
	var base, mask uint16
	switch {
	case !w.shares(e):
		return id
	case e != nil:
		base, mask = e.IdentificationRange() // rule 1.3.identification
	default:
		base, mask = w.ce.IdentificationRange()
	}
	return base | id&mask
}
