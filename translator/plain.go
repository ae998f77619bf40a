package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// Nearly all packets are plain: TCP or UDP without fragments, options or
// extension headers, on their way between a workload and a host behind the
// prefix. plainTo4 and plainTo6 translate those in one straight line; whatever is
// not plain in any way they leave, untouched, to to4 and to6. They know no rule
// of their own: FuzzTranslate holds them against the general way.

// plainTo4 translates an IPv6 packet.
func (w *Worker) plainTo4(p *Packet) Verdict {
	s := w.s
	b := p.Buf[p.Start:p.End]
	if len(b) < size6+8 {
		return w.to4(p)
	}
	h := header6(b)
	end := size6 + h.payloadLen()
	if end > len(b) || p.GSOType != GSONone || h.hopLimit() <= 1 || end-size6+size4 > s.mtu4 {
		return w.to4(p)
	}
	b = b[:end]
	proto := h.nextHeader()
	partial := p.Flags&FlagNeedsCsum != 0
	at, upperLen := plainUpper(proto, b[size6:], partial)
	if at == 0 || partial && (p.CsumStart != size6 || int(p.CsumOffset) != at) {
		return w.to4(p)
	}
	src, dst := h.src(), h.dst()
	dst4, ok := s.table.Extract(dst)
	if !ok || s.table.Lookup6(dst) != nil || s.table.Lookup4(dst4) != nil {
		return w.to4(p)
	}
	var src4 uint32
	e := s.table.Lookup6(src)
	if e != nil {
		src4 = e.To4(src)
	} else if src4, ok = w.plainFromCE(src, b[size6:]); !ok {
		return w.to4(p)
	}
	if never4(src4) || never4(dst4) || never6(src) || never6(dst) || s.global && nonGlobal(dst4) ||
		s.ours.has(dst4) || s.ours6(src) || s.ours6(dst) {
		return w.to4(p)
	}
	if e != nil && (e.Inside() || e.Shared() && !e.Owns(binary.BigEndian.Uint16(b[size6:])) ||
		e.Policy() != 0 && !s.plainOut(e, dst4, proto, b[size6:])) {
		return w.to4(p)
	}
	plainChecksum(b[size6+at:size6+at+2], proto, add(^addresses6(src, dst), addresses4(src4, dst4)), partial)
	class, length := h.class(), end-size6+size4
	if s.zeroClass {
		class = 0
	}
	id, flags := uint16(0), uint16(flagDF)
	if length <= longestDF0 {
		id, flags = w.nextID(e, 1), 0
	}
	put4(b[size6-size4:], class, length, id, flags, h.hopLimit()-1, proto, src4, dst4)
	if e != nil {
		w.source = e.Slot()
	} else if !w.trial {
		s.rules.CountTo4(w.ce, w.loop)
	}
	p.End = p.Start + end
	p.Start += size6 - size4
	p.HdrLen = 0
	if partial {
		p.CsumStart, p.HdrLen = size4, uint16(size4+upperLen)
	}
	return Forward4
}

// plainTo6 translates an IPv4 packet.
func (w *Worker) plainTo6(p *Packet) Verdict {
	s := w.s
	b := p.Buf[p.Start:p.End]
	if len(b) < size4+8 || b[0] != 0x45 {
		return w.to6(p, arrived)
	}
	h := header4(b)
	end := h.length()
	if end < size4+8 || end > len(b) || p.GSOType != GSONone || h.ttl() <= 1 || h.fragment()&^flagDF != 0 ||
		end-size4+size6 > s.mtu6 || h.fragment() == 0 && end-size4+size6 > s.config.LowestMTU6 {
		return w.to6(p, arrived)
	}
	b = b[:end]
	proto := h.protocol()
	partial := p.Flags&FlagNeedsCsum != 0
	at, upperLen := plainUpper(proto, b[size4:], partial)
	if at == 0 || fold(sum20(b)) != 0xffff || partial && (p.CsumStart != size4 || int(p.CsumOffset) != at) {
		return w.to6(p, arrived)
	}
	src4, dst4 := h.src(), h.dst()
	e := s.table.Lookup4(dst4)
	if !s.prefix || s.table.Lookup4(src4) != nil || never4(src4) || never4(dst4) ||
		s.global && nonGlobal(src4) || dst4 == s.own4 || s.ours.has(src4) {
		return w.to6(p, arrived)
	}
	var dst mapping.Addr6
	var ce mapt.CE
	if e == nil {
		if dst, ce = s.plainToCE(dst4, b[size4:]); ce.IsZero() {
			return w.to6(p, arrived)
		}
	} else {
		if e.Shared() {
			if e = s.table.Port(e, dst4, binary.BigEndian.Uint16(b[size4+2:])); e == nil {
				return w.to6(p, arrived)
			}
		}
		if dst = e.To6(dst4); e.Inside() || e.Policy() != 0 && !s.plainIn(e, src4, proto, b[size4:]) {
			return w.to6(p, arrived)
		}
	}
	if s.ours6(dst) {
		return w.to6(p, arrived)
	}
	src := s.table.Embed(src4)
	plainChecksum(b[size4+at:size4+at+2], proto, add(^addresses4(src4, dst4), addresses6(src, dst)), partial)
	if e != nil {
		w.destination = e.Slot()
	} else if !w.trial {
		s.rules.CountTo6(ce, w.loop)
	}
	w.src4, w.dst4 = src4, dst4
	s.plain6(p, end, 1, src, dst)
	if partial {
		p.CsumStart, p.HdrLen = size6, uint16(size6+upperLen)
	}
	return Forward6
}

// plain6 gives a plain packet of size bytes, which has come so many hops, its IPv6 header.
func (s *snapshot) plain6(p *Packet, size int, hops uint8, src, dst mapping.Addr6) {
	h := header4(p.Buf[p.Start:p.End])
	class, proto, ttl := h.tos(), h.protocol(), h.ttl()-hops
	if s.zeroClass {
		class = 0
	}
	p.End = p.Start + size
	p.Start -= size6 - size4
	put6(p.Buf[p.Start:], class, size-size4, proto, ttl, src, dst)
	p.HdrLen = 0
}

// plainUpper gives the offset of the checksum of TCP or UDP, and the length of the
// header; 0 for a packet that is not plain.
func plainUpper(proto uint8, l4 []byte, partial bool) (at, size int) {
	switch proto {
	case protoTCP:
		if len(l4) >= 20 {
			if size = int(l4[12]>>4) * 4; size >= 20 && size <= len(l4) {
				return 16, size
			}
		}
	case protoUDP:
		if len(l4) < 8 {
			return 0, 0
		}
		length := int(binary.BigEndian.Uint16(l4[4:]))
		if length >= 8 && length <= len(l4) && (partial || l4[6]|l4[7] != 0) {
			return 6, 8
		}
	}
	return 0, 0
}

// plainChecksum is fixUpper for TCP and UDP, and a difference not yet folded.
func plainChecksum(field []byte, proto uint8, diff uint64, partial bool) {
	old := binary.BigEndian.Uint16(field)
	if partial {
		binary.BigEndian.PutUint16(field, fold(add(diff, uint64(old))))
		return
	}
	sum := ^fold(add(diff, uint64(^old)))
	if sum == 0 && proto == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}

// sum20 is sum for an IPv4 header without options.
func sum20(b []byte) uint64 {
	b = b[:size4]
	return add(add(binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])), uint64(binary.BigEndian.Uint32(b[16:])))
}
