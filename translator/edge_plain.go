package translator

// Like plainTo4 and plainTo6, these know no rule of their own: they do in a straight line
// what the general way does with plain packets, in the half of an edge toward the fabric,
// and leave all others to it. TestEdgePlain holds them against that.

// plainAscend translates an IPv4 packet of the other half.
func (w *Worker) plainAscend(p *Packet) Verdict {
	s := w.s
	b := p.Buf[p.Start:p.End]
	if len(b) < size4+8 || b[0] != 0x45 || p.GSOType != GSONone {
		return w.to6(p, hairpinned)
	}
	h := header4(b)
	if h.length() != len(b) || h.fragment()&^flagDF != 0 || len(b)-size4+size6 > s.mtu6 {
		return w.to6(p, hairpinned)
	}
	proto, partial := h.protocol(), p.Flags&FlagNeedsCsum != 0
	at, upperLen := plainUpper(proto, b[size4:], partial)
	if at == 0 || partial && (p.CsumStart != size4 || int(p.CsumOffset) != at) {
		return w.to6(p, hairpinned)
	}
	src4, dst4 := h.src(), h.dst()
	e := s.table.Lookup4(src4)
	if e == nil || e.Shared() || s.table.Lookup4(dst4) != nil || never4(src4) || never4(dst4) ||
		s.global && nonGlobal(dst4) || s.ours.has(dst4) {
		return w.to6(p, hairpinned)
	}
	src, dst := e.To6(src4), s.table.Embed(dst4)
	plainChecksum(b[size4+at:size4+at+2], proto, add(^addresses4(src4, dst4), addresses6(src, dst)), partial)
	s.plain6(p, len(b), 0, src, dst)
	if partial {
		p.CsumStart, p.HdrLen = size6, uint16(size6+upperLen)
	}
	return Forward6
}

// plainDescend translates a packet of the fabric for a block.
func (w *Worker) plainDescend(p *Packet) Verdict {
	s := w.s
	b := p.Buf[p.Start:p.End]
	if len(b) < size6+8 {
		return w.to4(p)
	}
	h := header6(b)
	end := size6 + h.payloadLen()
	if end > len(b) || p.GSOType != GSONone || h.hopLimit() == 0 || end-size6+size4 > s.mtu4 {
		return w.to4(p)
	}
	b = b[:end]
	proto, partial := h.nextHeader(), p.Flags&FlagNeedsCsum != 0
	at, upperLen := plainUpper(proto, b[size6:], partial)
	if at == 0 || partial && (p.CsumStart != size6 || int(p.CsumOffset) != at) {
		return w.to4(p)
	}
	src, dst := h.src(), h.dst()
	src4, ok := s.table.Extract(src)
	e := s.table.Lookup6(dst)
	if !ok || e == nil || s.table.Lookup6(src) != nil {
		return w.to4(p)
	}
	dst4 := e.To4(dst)
	if never4(src4) || never4(dst4) || never6(src) || never6(dst) || s.global && nonGlobal(src4) || s.ours6(dst) {
		return w.to4(p)
	}
	plainChecksum(b[size6+at:size6+at+2], proto, add(^addresses6(src, dst), addresses4(src4, dst4)), partial)
	class, length := h.class(), end-size6+size4
	if s.zeroClass {
		class = 0
	}
	id, flags := uint16(0), uint16(flagDF)
	if length <= longestDF0 {
		id, flags = w.nextID(nil, 1), 0
	}
	put4(b[size6-size4:], class, length, id, flags, h.hopLimit(), proto, src4, dst4)
	p.End = p.Start + end
	p.Start += size6 - size4
	p.HdrLen = 0
	if partial {
		p.CsumStart, p.HdrLen = size4, uint16(size4+upperLen)
	}
	return Forward4
}
