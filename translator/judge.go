package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Policies are judged behind all else that says whose a packet is, and before its size:
// who may not send it need not make it shorter. What a packet says of connections that
// nobody remembers is for package policy.

// judgeOut judges what the workload of e sends, as IPv6 or IPv4.
func (w *Worker) judgeOut(p *Packet, h *parsed, e *mapping.Entry) Verdict { // rule 1.7.out
	l4 := p.Bytes()[h.upper:]
	if h.proto == protoICMP4 && h.first() && len(l4) > 0 && icmpError4(l4[0]) { // of who has it inside
		return w.judgeError4(p, h, e, false)
	}
	q := ends(h, l4, e, true)
	if w.toUs(h.dst4, &q) {
		return Forward4
	}
	return w.judge(p, h, e, &q)
}

// judgeIn judges what is for the workload of e, as IPv4.
func (w *Worker) judgeIn(p *Packet, h *parsed, e *mapping.Entry, from way) Verdict { // rule 1.7.in
	if e == nil || e.Policy() == 0 || w.ours(h, from) {
		return Forward6
	}
	l4 := p.Bytes()[h.upper:]
	if h.proto == protoICMP4 && h.first() && icmpError4(l4[0]) {
		return w.judgeError4(p, h, e, true)
	}
	q := ends(h, l4, e, false)
	return w.judge(p, h, e, &q)
}

// plainOut reports whether TCP or UDP that the workload of e sends is plainly allowed: as
// what it begins or, out of a published port, as an answer. What is so otherwise judgeOut
// finds.
func (s *snapshot) plainOut(e *mapping.Entry, dst uint32, proto uint8, l4 []byte) bool {
	local, far := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	if !e.Client(local) && !(proto == protoTCP && bareSYN(l4)) {
		return s.policy.Plain(e.Policy(), policy.Ingress, dst, proto, local)
	}
	return s.policy.Plain(e.Policy(), policy.Egress, dst, proto, far)
}

// plainIn reports whether TCP or UDP for the workload of e is plainly allowed.
func (s *snapshot) plainIn(e *mapping.Entry, src uint32, proto uint8, l4 []byte) bool {
	far, local := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	if e.Client(local) && !(proto == protoTCP && bareSYN(l4)) {
		return s.policy.Plain(e.Policy(), policy.Egress, src, proto, far)
	}
	return s.policy.Plain(e.Policy(), policy.Ingress, src, proto, local)
}

// ours says that a packet is one of our own: an answer to a hairpin, or from the local
// stack. Nobody is asked. A hop's error may have our address for want of its own.
func (w *Worker) ours(h *parsed, from way) bool {
	return from == answered || from == hairpinned && w.source == 0 && !w.hop && h.src4 == w.s.own4
}

// toUs says that a packet to an address, or what it quotes, is for the translator
// itself and for no workload that shares its address.
func (w *Worker) toUs(dst uint32, q *policy.Packet) bool { // rule 1.7.own
	if dst != w.s.own4 {
		return false
	}
	e := w.s.table.Lookup4(dst)
	return e == nil || !e.Shared() || !q.Later && w.s.table.Port(e, dst, q.Far) == nil
}

// bareSYN says that TCP asks for a connection, and answers nothing.
func bareSYN(l4 []byte) bool {
	const syn, ack = 2, 16
	return len(l4) > 13 && l4[13]&(syn|ack) == syn
}

// ends is what policies go by, of a packet, whole or quoted, whose addresses are
// translated and that the workload of e sends or gets.
func ends(h *parsed, l4 []byte, e *mapping.Entry, out bool) (q policy.Packet) {
	q = policy.Packet{Proto: h.proto, Out: out, Remote: h.src4}
	if out {
		q.Remote = h.dst4
	}
	if q.Proto == protoICMP6 {
		q.Proto = protoICMP4
	}
	if !h.first() {
		q.Later = true
		q.Overwrites = h.proto == protoTCP && h.offset < 3 // the least header has 20 bytes
		return q
	}
	src, dst, ok := portsOf(h.proto, l4)
	if !ok {
		q.Later = true
		return q
	}
	if q.Local, q.Far = dst, src; out {
		q.Local, q.Far = src, dst
	}
	switch h.proto {
	case protoTCP:
		q.Asks = bareSYN(l4)
	case protoICMP4:
		q.Asks = l4[0] == icmp4EchoRequest
	case protoICMP6:
		q.Asks = l4[0] == icmp6EchoRequest
	}
	q.Client = e.Client(q.Local)
	return q
}

// judgeError4 judges an ICMPv4 error that a workload with its IPv4 address inside sends or,
// where the quoted packet is its own (out), gets.
func (w *Worker) judgeError4(p *Packet, h *parsed, e *mapping.Entry, out bool) Verdict {
	var q parsed
	m := p.Bytes()[h.upper:]
	quote, _ := splitQuote(m[sizeICMP:], int(m[5])*4)
	if v := q.read4(quote, true); v.IsDrop() {
		return v
	}
	v := w.judgeQuote(&q, quote, e, out)
	if v.IsDrop() {
		w.denyError(p, h, e, e.Addr4(), !out, m[0], m[1])
	}
	return v
}

// judgeQuote judges an ICMP error by the packet that it quotes, which the workload of e
// sent (out) or was sent. An error is never answered.
func (w *Worker) judgeQuote(h *parsed, quote []byte, e *mapping.Entry, out bool) Verdict { // rule 1.7.error
	q := ends(h, h.quotedUpper(quote), e, out)
	if w.toUs(q.Remote, &q) {
		return Forward4
	}
	v := w.s.policy.Judge(e.Policy(), &q)
	w.note(v)
	return reasonOf(v)
}

func reasonOf(v policy.Verdict) Verdict {
	switch {
	case v.Allow:
		return Forward4
	case v.Fragment:
		return DeniedFragment
	}
	return Denied
}

// note counts what was denied, or would be, by its rule.
func (w *Worker) note(v policy.Verdict) {
	n := v.Rule
	if v.Allow {
		if n = v.Audited(); n == 0 {
			return
		}
	}
	if w.rule = w.s.policy.Rule(n); w.rule == nil || w.trial {
		return
	}
	if v.Allow {
		w.rule.Audited.Add(1)
	} else {
		w.rule.Denied.Add(1)
	}
}

// judge judges a packet, and answers one that is denied as its rule has it.
func (w *Worker) judge(p *Packet, h *parsed, e *mapping.Entry, q *policy.Packet) Verdict {
	v := w.s.policy.Judge(e.Policy(), q)
	w.note(v)
	if v.Allow {
		return Forward4
	}
	w.deny(p, h, e, q)
	reason := reasonOf(v)
	switch {
	case v.Answer == policy.Silence: // rule 1.7.silence
		return reason
	case v.Answer == policy.Reset && h.proto == protoTCP && h.first():
		return w.reset(p, h, e, q.Out, reason)
	case p.Bytes()[0]>>4 == 6:
		return w.reply6(p, reason, icmp6Unreachable, icmp6Prohibited, 0) // rule 1.7.answer
	case q.Out: // IPv4 that the workload has inside
		return w.refuse4(p, e, reason, icmp4Unreachable, icmp4Prohibited, 0)
	}
	return w.reply4(p, reason, icmp4Unreachable, icmp4Prohibited, 0)
}
