package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// sizeTCP is that of a TCP header without options.
const sizeTCP = 20

// reset turns p, a TCP segment that is denied, into a RST in the name of whom it is for
// (RFC 9293 3.10.7.1), if it may be answered and its sender's budget for ICMP errors
// allows it.
func (w *Worker) reset(p *Packet, h *parsed, e *mapping.Entry, out bool, reason Verdict) Verdict { // rule 1.7.reset
	b := p.Bytes()
	segment := b[h.upper:h.length]
	const rst, ack = 4, 16
	if segment[13]&rst != 0 {
		return reason // which nobody answers
	}
	six := b[0]>>4 == 6
	switch {
	case six && (!answerable6(b) || !w.mayHear(hearer6(w.s.table, h.src6), OtherError, &w.limited6)),
		!six && (!answerable4(b) || !w.mayHear(w.hearer4(h.src4, h.dst4), OtherError, &w.limited4)):
		return reason
	}
	var m [sizeTCP]byte
	copy(m[:], segment[2:4])
	copy(m[2:], segment[:2])
	m[12], m[13] = sizeTCP/4<<4, rst
	if segment[13]&ack != 0 {
		copy(m[4:], segment[8:12]) // where the sender expects us
	} else {
		binary.BigEndian.PutUint32(m[8:], binary.BigEndian.Uint32(segment[4:])+lengthTCP(segment))
		m[13] |= ack
	}
	size := size4
	if six {
		size = size6
	}
	p.End = p.Start + size + sizeTCP // no longer than what was there
	p.Offload = Offload{}
	to := p.Bytes()
	copy(to[size:], m[:])
	pseudo := add(addresses4(h.src4, h.dst4), sizeTCP+protoTCP)
	if six {
		pseudo = pseudo6(h.src6, h.dst6, sizeTCP, protoTCP)
	}
	binary.BigEndian.PutUint16(to[size+16:], ^fold(add(pseudo, sum(m[:]))))
	if six {
		put6(to, 0, sizeTCP, protoTCP, ourHops, h.dst6, h.src6)
		return reason | Replied
	}
	put4(to, 0, len(to), w.nextID(nil, 1), 0, ourHops, protoTCP, h.dst4, h.src4)
	if out {
		w.inside = e.Tag()
	}
	return reason | Replied
}

// lengthTCP is how far a segment counts on in the sequence.
func lengthTCP(segment []byte) uint32 {
	const fin, syn = 1, 2
	n := uint32(len(segment) - int(segment[12]>>4)*4)
	if segment[13]&syn != 0 {
		n++
	}
	if segment[13]&fin != 0 {
		n++
	}
	return n
}
