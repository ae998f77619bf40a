package translator

import (
	"encoding/binary"
)

// minQuote is how long what an extended error quotes must be (RFC 4884 4.6).
const minQuote = 128

// splitQuote parts the body of an ICMP error into the packet that it quotes and
// the extensions behind that. length is RFC 4884's length field, in bytes; 0 if
// there is none.
func splitQuote(body []byte, length int) (quote, extensions []byte) {
	if length == 0 || length > len(body)-4 { // an extension header takes 4 bytes
		return body, nil
	}
	return body[:length], body[length:]
}

// attach bounds what an error quotes, out[:n], by the size of out, and puts
// extensions behind it where they may go and fit (RFC 4884 4.2, 5.5). It gives
// the size of both, and the quote's in units, or 0 without extensions.
func attach(out []byte, n int, extensions []byte, unit int, allowed bool) (size, length int) {
	room := (len(out) - len(extensions)) &^ (unit - 1)
	if len(extensions) == 0 || !allowed || room < minQuote { // rule 6.extensions-dropped
		return min(n, len(out)), 0
	}
	n = min(n, room)
	padded := max(minQuote, (n+unit-1)&^(unit-1))
	clear(out[n:padded])
	return padded + copy(out[padded:], extensions), padded / unit // rule 6.extensions-kept
}

// quoteTo6 translates a packet that an ICMPv4 error quotes into out, as much of
// it as fits, and gives its size (RFC 7915 4.3).
func (w *Worker) quoteTo6(out, quote []byte, q *parsed) (n int, v Verdict) {
	quote = quote[:min(len(quote), q.length)]
	l4 := quote[q.upper:]
	near, far := q.ends(quote)
	if q.src6, _, v = w.s.destination6(q.src4, near); v.IsDrop() {
		if v == UntranslatableDestination {
			v = UntranslatableSource
		}
		return 0, v
	}
	if q.dst6, v = w.s.source6(q.dst4, far); v.IsDrop() {
		if v == UntranslatableSource {
			v = UntranslatableDestination
		}
		return 0, v
	}
	size, next := size6, q.proto
	if next == protoICMP4 {
		next = protoICMP6
	}
	if q.fragment {
		size += sizeFragment
		putFragment(out[size6:], next, q.offset, q.more, q.id) // rule 6.quote-fragment
	}
	n = copy(out[size:], l4)
	rest := q.length - q.upper
	if q.first() {
		cut := w.quotedUpperTo6(out[size:size+n], q, rest)
		n, rest = n-cut, rest-cut
	}
	class := q.class
	if w.s.zeroClass {
		class = 0
	}
	if q.fragment {
		next = protoFragment
	}
	put6(out, class, rest+size-size6, next, q.hops, q.src6, q.dst6) // rule 6.quote-ttl
	return size + n, Forward6
}

// quotedUpperTo6 translates the beginning of an upper layer that had rest bytes
// before it was quoted, and says how many to cut off its end.
func (w *Worker) quotedUpperTo6(l4 []byte, q *parsed, rest int) (cut int) {
	if q.proto != protoICMP4 {
		fixUpper(q.proto, l4, difference(addresses4(q.src4, q.dst4), addresses6(q.src6, q.dst6)), false)
		return 0
	}
	if len(l4) == 0 {
		return 0
	}
	if len(l4) == rest && l4[0] == icmp4EchoRequest {
		cut = unfoldEcho(&w.s.config.Key, q.src6, l4)
	}
	echoTo6(l4[:len(l4)-cut], q.src6, q.dst6, rest-cut, false)
	return cut
}

// quoted judges what an error quotes, whose ICMP has the number icmp. It may be
// cut short anywhere behind its IP header.
func quoted(q *parsed, quote []byte, icmp uint8) Verdict {
	l4 := q.quotedUpper(quote)
	switch {
	case untranslatable(q.proto): // rule 6.quote-protocol
		return ProtocolUntranslatable
	case icmp == protoICMP4 && extension(q.proto):
		return Malformed // as the packet would have been
	}
	if q.proto != icmp {
		if q.proto == protoICMP4 || q.proto == protoICMP6 { // rule 6.foreign
			return ICMPUntranslatable
		}
		return Forward6
	}
	switch {
	case q.fragment:
		return ICMPFragment
	case len(l4) == 0 || echo(icmp, l4[0]):
		return Forward6
	case icmp == protoICMP4 && icmpError4(l4[0]), icmp == protoICMP6 && icmpError6(l4[0]):
		return ICMPErrorInError // rule 6.quote-error
	}
	return ICMPUntranslatable
}

// quotedUpper is as much as there is of the upper layer of a quoted packet.
// Bytes beyond the packet's length are padding (RFC 4884 5.1).
func (q *parsed) quotedUpper(quote []byte) []byte {
	return quote[q.upper:max(q.upper, min(len(quote), q.length))] // rule 6.quote-truncated
}

// ends are the ports that a quoted packet came from and went to.
func (q *parsed) ends(quote []byte) (src, dst port) {
	if q.first() {
		src.number, dst.number, src.known = portsOf(q.proto, q.quotedUpper(quote))
		dst.known = src.known
	}
	return src, dst
}

// putICMP writes the header of an ICMP message m. Its checksum covers pseudo
// too, which is 0 for ICMPv4.
func putICMP(m []byte, typ, code uint8, rest uint32, pseudo uint64) {
	m[0], m[1], m[2], m[3] = typ, code, 0, 0
	binary.BigEndian.PutUint32(m[4:], rest)
	binary.BigEndian.PutUint16(m[2:], ^fold(add(pseudo, sum(m))))
}

// replace puts a whole packet in the place of p, at the end of the one that was
// there or, where the new one is much longer, as far to the front as leaves
// half the headroom.
func (p *Packet) replace(with []byte, v Verdict) Verdict {
	start := max(p.End-len(with), Headroom/2)
	if start+len(with) > len(p.Buf) {
		return Malformed // the caller's buffer has less room than it must have
	}
	p.Start, p.End = start, start+copy(p.Buf[start:], with)
	p.Offload = Offload{}
	return v
}
