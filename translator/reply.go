package translator

import "github.com/natless/natless/translator/mapping"

// ourHops is the TTL and hop limit of what we send ourselves.
const ourHops = 64 // rule 6.answer

// reply4 turns p, an IPv4 packet, into an ICMPv4 error about it, if it may be
// answered at all and its sender's budget allows it. reason comes back, marked
// if so.
func (w *Worker) reply4(p *Packet, reason Verdict, typ, code uint8, rest uint32) Verdict {
	h := header4(p.Bytes())
	return w.reply4To(w.hearer4(h.src(), h.dst()), p, reason, typ, code, rest)
}

// reply4To is reply4, where it is known who hears of it.
func (w *Worker) reply4To(who hearer, p *Packet, reason Verdict, typ, code uint8, rest uint32) Verdict {
	b := p.Bytes()
	if !answerable4(b) {
		return reason
	}
	kind := OtherError
	if typ == icmp4Unreachable && code == icmp4TooBig {
		kind = TooBigError
	}
	if !w.mayHear(who, kind, &w.limited4) {
		return reason
	}
	to := header4(b).src()
	p.Start -= size4 + sizeICMP
	p.End = min(p.End, p.Start+maxError4)
	p.Offload = Offload{}
	out := p.Bytes()
	putICMP(out[size4:], typ, code, rest, 0)
	put4(out, 0, len(out), w.nextID(nil, 1), 0, ourHops, protoICMP4, w.s.own4, to)
	return reason | Replied
}

// reply6 is the other way of reply4.
func (w *Worker) reply6(p *Packet, reason Verdict, typ, code uint8, rest uint32) Verdict {
	b := p.Bytes()
	if !answerable6(b) {
		return reason
	}
	kind := OtherError
	if typ == icmp6TooBig {
		kind = TooBigError
	}
	to := header6(b).src()
	if !w.mayHear(hearer6(w.s.table, to), kind, &w.limited6) {
		return reason
	}
	p.Start -= size6 + sizeICMP
	p.End = min(p.End, p.Start+maxError6)
	p.Offload = Offload{}
	out := p.Bytes()
	m := out[size6:]
	putICMP(m, typ, code, rest, pseudo6(w.s.own6, to, len(m), protoICMP6))
	put6(out, 0, len(m), protoICMP6, ourHops, w.s.own6, to)
	return reason | Replied
}

// answerable4 reports whether an IPv4 packet may be answered with an ICMP error
// (RFC 1122 3.2.2): the packet is neither an ICMP error nor a later fragment, and each
// of its addresses is that of one host.
func answerable4(b []byte) bool { // rule 6.answer-only-to
	var h parsed
	if h.read4(b, true).IsDrop() || h.offset != 0 || never4(h.src4) || h.dst4 == 0 || h.dst4>>28 >= 14 {
		return false
	}
	return h.proto != protoICMP4 || h.upper < len(b) && !icmpError4(b[h.upper])
}

// answerable6 is that for IPv6 (RFC 4443 2.4 (e)).
func answerable6(b []byte) bool {
	var h parsed
	if h.read6(b, true).IsDrop() || multicastOrNone(h.src6) || multicastOrNone(h.dst6) {
		return false
	}
	if h.follow6(b, true).IsDrop() || h.offset != 0 {
		return false
	}
	return h.proto != protoICMP6 || h.upper < len(b) && !icmpError6(b[h.upper]) && b[h.upper] != icmp6Redirect
}

func multicastOrNone(a mapping.Addr6) bool {
	return a.Hi>>56 == 0xff || a == mapping.Addr6{}
}
