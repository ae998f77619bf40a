package translator

import (
	"cmp"
	"encoding/binary"

	"github.com/natless/natless/translator/mapt"
)

// cutting is where NextFragment stands with a packet that came with DF=0 and is
// too long for IPv6.
type cutting struct {
	active bool
	more   bool // the packet was itself a fragment, and not the last
	done   int  // bytes of payload that are out
	most   int  // the longest fragment; 0: LowestMTU6
}

// NextFragment copies the next fragment of p into dst, from dst.Buf[Headroom]
// on, and says whether there was one. p must be as Translate or NextHeld left
// it. dst.Buf must hold Headroom, LowestMTU6 and Tailroom bytes.
func (w *Worker) NextFragment(p, dst *Packet) bool {
	const headers = size6 + sizeFragment
	c := &w.cut
	b := p.Bytes()
	if c.active && b[0]>>4 == 4 {
		return w.nextFragment4(p, dst)
	}
	if !c.active || len(b) <= headers+c.done {
		c.active = false
		return false
	}
	unit := (cmp.Or(c.most, w.s.config.LowestMTU6) - headers) &^ 7
	payload := b[headers+c.done:]
	payload = payload[:min(unit, len(payload))]
	size := headers + len(payload)
	if len(dst.Buf) < Headroom+size {
		c.active = false
		return false
	}
	more := c.more || headers+c.done+len(payload) < len(b)
	offset := binary.BigEndian.Uint16(b[size6+2:])>>3 + uint16(c.done/8)
	out := dst.Buf[Headroom : Headroom+size]
	copy(out, b[:headers])
	copy(out[headers:], payload)
	binary.BigEndian.PutUint16(out[4:], uint16(size-size6))
	putFragment(out[size6:], b[size6], offset, more, binary.BigEndian.Uint32(b[size6+4:]))
	dst.Start, dst.End, dst.Offload = Headroom, Headroom+size, Offload{}
	c.done += len(payload)
	return true
}

// laterFragment finds the workload that a later fragment is for, which its
// first fragment told, or holds it until that one comes.
func (w *Worker) laterFragment(h *parsed, b []byte, from way) Verdict {
	key := &w.s.config.Key
	p := w.t.tracker.find(key, keyOf(h), w.now)
	if p.known {
		return w.toWorkload(h, p)
	}
	if w.t.tracker.hold(key, keyOf(h), w.now, b, from) { // rule 1.3.held
		return FragmentHeld
	}
	return FragmentUnknown // rule 1.3.fragment-unknown
}

// sender is the port that decides which workload an IPv4 packet is from. Only in
// a client (RFC 6877) do workloads send IPv4; there, a first fragment tells it for
// all of its datagram.
func (w *Worker) sender(h *parsed, b []byte) (p port) {
	if h.first() {
		p.number, _, p.known = portsOf(h.proto, b[h.upper:])
	}
	if !h.fragment || !w.s.client {
		return p
	}
	key := keyOf(h)
	key.sent = true
	if !h.first() {
		return w.t.tracker.find(&w.s.config.Key, key, w.now) // rule 1.5.fragments
	}
	if e := w.s.table.Lookup4(h.src4); e != nil && e.Shared() && p.known && w.s.table.Port(e, h.src4, p.number) != nil {
		w.t.tracker.learn(&w.s.config.Key, key, w.now, p.number)
	}
	return p
}

// firstFragment remembers the port that a first fragment showed, and takes over
// what was held for it.
func (w *Worker) firstFragment(h *parsed, number uint16) {
	w.held = w.t.tracker.learn(&w.s.config.Key, keyOf(h), w.now, number) // rule 1.3.tracker
}

// NextHeld translates, into dst, the next fragment that was held for the
// packet just translated (fragments that came before their first), and gives
// its verdict. dst.Buf must hold 65535 bytes besides Headroom and Tailroom.
func (w *Worker) NextHeld(dst *Packet) (v Verdict, ok bool) {
	w.cut = cutting{}
	w.source, w.destination, w.inside, w.hop, w.rule, w.ce = 0, 0, 0, false, nil, mapt.CE{}
	if w.held == 0 || len(dst.Buf) < Headroom+Tailroom {
		return 0, false
	}
	room := dst.Buf[Headroom : len(dst.Buf)-Tailroom]
	n, from, next := w.t.tracker.take(w.held, w.now, room)
	w.held = next
	if n == 0 {
		return 0, false
	}
	dst.Start, dst.End, dst.Offload = Headroom, Headroom+n, Offload{}
	if v = w.to6(dst, from); v == Forward6 && from == hairpinned {
		v = Hairpin
	}
	return v, true
}
