package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// problemTo4 translates what an ICMPv6 error says (RFC 7915 5.2); ok is false
// where ICMPv4 has no such thing to say.
func (s *snapshot) problemTo4(m []byte) (e problem, ok bool) {
	code, rest := m[1], binary.BigEndian.Uint32(m[4:])
	switch m[0] {
	case icmp6Unreachable:
		e = problem{typ: icmp4Unreachable, extended: true}
		switch code {
		case 0, 2, 3: // rule 6.to4.1-unreachable
			e.code = icmp4Host
		case icmp6Prohibited: // rule 6.to4.1-prohibited
			e.code = icmp4HostAdmin
		case icmp6Port: // rule 6.to4.1-port
			e.code = icmp4Port
		default: // rule 6.to4.1-other
			return e, false
		}
		return e, true
	case icmp6TooBig: // rule 6.to4.2
		// No IPv6 link has less than 1280 (RFC 8200 5), and no smaller MTU may
		// be believed (RFC 8021): it would slow all who share the address.
		reported := int(max(minMTU6, min(rest, maxMTU+20)))
		mtu := min(reported-20, s.mtu4, s.mtu6-20) // rule 6.mtu-to4
		return problem{typ: icmp4Unreachable, code: icmp4TooBig, rest: uint32(mtu)}, true
	case icmp6TimeExceeded: // rule 6.to4.3
		return problem{typ: icmp4TimeExceeded, code: code, extended: true}, true
	case icmp6ParameterProblem:
		switch code {
		case 0:
			pointer, ok := pointerTo4(rest)
			return problem{typ: icmp4ParameterProblem, rest: pointer << 24}, ok // rule 6.to4.4-0
		case 1:
			return problem{typ: icmp4Unreachable, code: icmp4Protocol}, true // rule 6.to4.4-1
		}
	}
	return e, false // rules 6.to4.4-other, 6.to4.others
}

// pointerTo4 finds the IPv4 header field that matches a byte of the IPv6 header
// (RFC 7915 figure 6).
func pointerTo4(p uint32) (uint32, bool) { // rule 6.pointer-to4
	switch {
	case p <= 1:
		return p, true
	case p == 4 || p == 5:
		return 2, true
	case p == 6:
		return 9, true
	case p == 7:
		return 8, true
	case p >= 8 && p <= 23:
		return 12, true
	case p >= 24 && p <= 39:
		return 16, true
	}
	return 0, false
}

// errorTo4 translates an ICMPv6 error and the packet that it quotes. The packet
// is IPv4 afterwards, and h.dst4 where it goes.
func (w *Worker) errorTo4(p *Packet, h *parsed) Verdict {
	m := p.Bytes()[h.upper:]
	if m[0] < icmp6Unreachable || m[0] > icmp6ParameterProblem {
		return ICMPUntranslatable
	}
	if p.Flags&FlagNeedsCsum == 0 && fold(add(sum(m), pseudo6(h.src6, h.dst6, len(m), protoICMP6))) != 0xffff {
		return BadChecksum // rule 4.icmp-error-verified
	}
	units := 0
	if m[0] == icmp6Unreachable || m[0] == icmp6TimeExceeded {
		units = int(m[4])
	}
	quote, extensions := splitQuote(m[sizeICMP:], units*8)
	var q parsed
	if v := q.read6(quote, true); v.IsDrop() {
		return v
	}
	if v := q.walk6(quote); v.IsDrop() {
		return v
	}
	if v := quoted(&q, quote, protoICMP6); v.IsDrop() {
		return v
	}
	if v := w.errorAddressesTo4(h, &q, quote); v.IsDrop() {
		return v
	}
	if e := w.s.table.Lookup6(q.dst6); e != nil && e.Policy() != 0 { // also where a hop on the way speaks
		if v := w.judgeQuote(&q, quote, e, false); v.IsDrop() {
			as4, _ := w.s.problemTo4(m)
			w.denyError(p, h, e, q.dst4, true, as4.typ, as4.code)
			return v
		}
	}
	switch {
	case h.hops <= w.s.hop:
		return HopLimitExceeded // an error is never answered with another
	case h.route != 0 || q.route != 0:
		return RoutingHeader
	case h.behind || q.behind:
		return HeaderBehindFragment
	}
	e, ok := w.s.problemTo4(m)
	if !ok {
		return ICMPUntranslatable
	}
	out := w.scratch[:maxError4] // rule 6.size4
	n, v := w.quoteTo4(out[size4+sizeICMP:], quote, &q)
	if v.IsDrop() {
		return v
	}
	n, length := attach(out[size4+sizeICMP:], n, extensions, 4, e.extended)
	e.rest |= uint32(length) << 16 // RFC 4884 4.1: the second byte, in units of 4 bytes
	n += sizeICMP
	w.putError4(out[:size4+n], e, h)
	return p.replace(out[:size4+n], Forward4)
}

// putError4 writes the headers of an ICMPv4 error in front of what it quotes.
func (w *Worker) putError4(out []byte, e problem, h *parsed) {
	id := uint16(h.id)
	if !h.header {
		id = w.nextID(nil, 1)
	}
	class := h.class
	if w.s.zeroClass {
		class = 0
	}
	putICMP(out[size4:], e.typ, e.code, e.rest, 0)
	put4(out, class, len(out), id, 0, h.hops-w.s.hop, protoICMP4, h.src4, h.dst4) // rule 6.df4
}

// errorAddressesTo4 translates the outer addresses of an ICMPv6 error. What it
// quotes was sent to a workload. The error comes from that workload itself, or from a
// hop on the way to it, which is no workload.
func (w *Worker) errorAddressesTo4(h, q *parsed, quote []byte) (v Verdict) {
	if never6(h.src6) || never6(h.dst6) || never6(q.src6) || never6(q.dst6) {
		return NeverTranslated
	}
	src, sender, v := w.s.address4(h.src6, UntranslatableSource)
	if v == UntranslatableSource || v == NonGlobal {
		src, v, w.hop = w.s.pool4(h.src6), Forward4, true // RFC 6791
	}
	if v.IsDrop() {
		return v
	}
	if sender != nil && sender.Inside() {
		return PrefixClosed
	}
	h.src4, w.source = src, slotOf(sender)
	if h.dst4, _, v = w.s.destination4(h.dst6); v.IsDrop() {
		return v
	}
	if q.src4, _, v = w.s.address4(q.src6, UntranslatableSource); v.IsDrop() {
		return v
	}
	dst, workload, v := w.s.address4(q.dst6, UntranslatableDestination)
	if v.IsDrop() {
		return v
	}
	q.dst4 = dst
	if sender != nil && (sender != workload || src != dst) { // rule 6.error-sender
		return SpoofedSource // speaks about somebody else's packet (RFC 5927 4)
	}
	if w.s.rules.Apart(h.src6, q.dst6) { // rule 1.8.error-sender
		return SpoofedSource
	}
	if workload == nil {
		_, w.ce, _, _ = w.s.rules.To4(q.dst6)
	}
	v = w.quotedPort(workload, q, quote)
	w.ce = mapt.CE{} // it has not sent what is quoted
	return v
}

// quotedPort holds a workload that shares its address to errors about its own ports.
func (w *Worker) quotedPort(workload *mapping.Entry, q *parsed, quote []byte) Verdict {
	if !w.shares(workload) {
		return Forward4
	}
	_, to := q.ends(quote)
	switch {
	case !shareable(q.proto):
		return ProtocolNotShareable
	case !q.first():
		return FragmentUnknown // rule 1.3.quoted-no-port
	case !to.known:
		return Malformed
	case !w.owns(workload, to.number): // rule 1.3.quoted-destination-port
		return PortOutsideSet // rule 1.3.quoted-outside
	}
	return Forward4
}

// quoteTo4 translates a packet that an ICMPv6 error quotes into out, as much of
// it as fits, and gives its size (RFC 7915 5.3).
func (w *Worker) quoteTo4(out, quote []byte, q *parsed) (n int, v Verdict) {
	quote = quote[:min(len(quote), q.length)]
	l4 := quote[q.upper:]
	rest := q.length - q.upper
	if size4+rest > maxMTU {
		return 0, Malformed
	}
	n = size4 + copy(out[size4:], l4)
	id, fragment, proto := uint16(0), q.offset, q.proto
	switch {
	case q.header:
		id = uint16(q.id)
		if q.more {
			fragment |= flagMF
		}
	case size4+rest > longestDF0:
		fragment = flagDF
	default:
		id = w.nextID(nil, 1)
	}
	l4 = out[size4:n]
	switch {
	case q.proto == protoICMP6:
		proto = protoICMP4
		if len(l4) > 0 {
			echoTo4(l4, q.src6, q.dst6, rest, false)
		}
	case q.first():
		fixUpper(q.proto, l4, difference(addresses6(q.src6, q.dst6), addresses4(q.src4, q.dst4)), false)
	}
	class := q.class
	if w.s.zeroClass {
		class = 0
	}
	put4(out, class, size4+rest, id, fragment, q.hops, proto, q.src4, q.dst4)
	return n, Forward4
}
