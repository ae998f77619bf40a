package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/special"
)

// problemTo6 translates what an ICMPv4 error says (RFC 7915 4.2). quoted is the
// total length of the packet that it is about; ok is false where ICMPv6 has no
// such thing to say.
func (s *snapshot) problemTo6(m []byte, quoted int) (e problem, ok bool) {
	code := m[1]
	switch m[0] {
	case icmp4Unreachable:
		return s.unreachableTo6(m, code, quoted)
	case icmp4TimeExceeded: // rule 6.to6.11
		return problem{typ: icmp6TimeExceeded, code: code, extended: true}, true
	case icmp4ParameterProblem:
		if code != 0 && code != 2 { // rule 6.to6.12-other
			return e, false
		}
		pointer, ok := pointerTo6(m[4])
		return problem{typ: icmp6ParameterProblem, rest: pointer}, ok // rule 6.to6.12
	}
	return e, false // rule 6.to6.others
}

func (s *snapshot) unreachableTo6(m []byte, code uint8, quoted int) (e problem, ok bool) {
	switch code {
	case 0, 1, 5, 6, 7, 8, 11, 12: // rule 6.to6.3-unreachable
		return problem{typ: icmp6Unreachable, code: icmp6NoRoute, extended: true}, true
	case icmp4Protocol: // rule 6.to6.3-protocol
		return problem{typ: icmp6ParameterProblem, code: 1, rest: 6}, true
	case icmp4Port: // rule 6.to6.3-port
		return problem{typ: icmp6Unreachable, code: icmp6Port, extended: true}, true
	case icmp4TooBig: // rule 6.to6.3-fragmentation
		mtu := int(binary.BigEndian.Uint16(m[6:]))
		if mtu == 0 {
			mtu = plateau(quoted) // rule 6.mtu-to6-plateau
		}
		mtu = max(minMTU6, min(mtu+20, s.mtu6, s.mtu4+20)) // rule 6.mtu-to6
		return problem{typ: icmp6TooBig, rest: uint32(mtu)}, true
	case 9, 10, 13, 15: // rule 6.to6.3-prohibited
		return problem{typ: icmp6Unreachable, code: icmp6Prohibited, extended: true}, true
	}
	return e, false // rules 6.to6.3-14, 6.to6.3-other
}

// pointerTo6 finds the IPv6 header field that matches a byte of the IPv4 header
// (RFC 7915 figure 3).
func pointerTo6(p uint8) (uint32, bool) { // rule 6.pointer-to6
	switch {
	case p <= 1:
		return uint32(p), true
	case p == 2 || p == 3:
		return 4, true
	case p == 8:
		return 7, true
	case p == 9:
		return 6, true
	case p >= 12 && p <= 15:
		return 8, true
	case p >= 16 && p <= 19:
		return 24, true
	}
	return 0, false
}

// errorTo6 translates an ICMPv4 error and the packet that it quotes.
func (w *Worker) errorTo6(p *Packet, h *parsed, route bool, from way) Verdict {
	m := p.Bytes()[h.upper:]
	if m[0] == icmp4SourceQuench || m[0] == icmp4Redirect {
		return ICMPUntranslatable
	}
	if p.Flags&FlagNeedsCsum == 0 && fold(sum(m)) != 0xffff {
		return BadChecksum
	}
	quote, extensions := splitQuote(m[sizeICMP:], int(m[5])*4)
	var q parsed
	if v := q.read4(quote, true); v.IsDrop() {
		return v
	}
	if v := quoted(&q, quote, protoICMP4); v.IsDrop() {
		return v
	}
	if v := w.errorAddressesTo6(h, &q, quote, from); v.IsDrop() {
		return v
	}
	if e := w.s.table.At(w.destination); e != nil && e.Policy() != 0 && !w.ours(h, from) {
		if v := w.judgeQuote(&q, quote, e, true); v.IsDrop() {
			w.denyError(p, h, e, h.dst4, false, m[0], m[1])
			return v
		}
	}
	if h.hops <= 1 && from == arrived {
		return HopLimitExceeded // an error is never answered with another
	}
	if route {
		return SourceRoute
	}
	e, ok := w.s.problemTo6(m, q.length)
	if !ok {
		return ICMPUntranslatable
	}
	out := w.scratch[:maxError6]                        // rule 6.size6
	n, v := w.quoteTo6(out[size6+sizeICMP:], quote, &q) // rule 6.quote
	if v.IsDrop() {
		return v
	}
	n, length := attach(out[size6+sizeICMP:], n, extensions, 8, e.extended)
	if length > 0 {
		e.rest = uint32(length) << 24 // RFC 4884 4.2: the first byte, in units of 8 bytes
	}
	n += sizeICMP
	w.putError6(out[:size6+n], e, h, from)
	return p.replace(out[:size6+n], Forward6)
}

// putError6 writes the headers of an ICMPv6 error in front of what it quotes.
func (w *Worker) putError6(out []byte, e problem, h *parsed, from way) {
	hops, class := h.hops, h.class
	if from == arrived { // rule 1.4.errors
		hops--
	}
	if w.s.zeroClass {
		class = 0
	}
	m := out[size6:]
	putICMP(m, e.typ, e.code, e.rest, pseudo6(h.src6, h.dst6, len(m), protoICMP6))
	put6(out, class, len(m), protoICMP6, hops, h.src6, h.dst6)
}

// errorAddressesTo6 translates the outer addresses of an ICMPv4 error. What it
// quotes was sent by the workload that the error is for, so that its source
// port decides between workloads.
func (w *Worker) errorAddressesTo6(h, q *parsed, quote []byte, from way) (v Verdict) {
	near, far := q.ends(quote)
	switch {
	case from == answered:
		h.src6 = w.s.own6
	case special.Many4(h.src4):
		return NeverTranslated
	case from == arrived && w.s.unrouted(q.dst4, far): // rule 6.error-inside
		return SpoofedSource // what goes between workloads passes nobody who could speak
	default:
		h.src6 = w.s.hop6(h.src4, far)
	}
	if w.s.shared4(h.dst4) && !shareable(q.proto) {
		return ProtocolNotShareable
	}
	v = w.toWorkload(h, near) // rules 1.3.quoted-source-port, 1.3.quoted-unassigned
	if v == FragmentUnknown && q.first() {
		return Malformed // too short to say whose it is
	}
	return v
}
