package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// way says how an IPv4 packet came to be translated to IPv6.
type way uint8

const (
	arrived    way = iota // from the device
	hairpinned            // from IPv6 a moment ago: its hop limit has been counted (RFC 7757 4.2.2)
	answered              // an error of ours about a hairpinned packet
)

// to6 translates any IPv4 packet (RFC 7915 4). plainTo6 has had a look at it.
func (w *Worker) to6(p *Packet, from way) Verdict {
	var h parsed
	b := p.Bytes()
	if v := h.read4(b, false); v.IsDrop() {
		return v
	}
	p.End = p.Start + h.length // rule 7.trailing
	b = b[:h.length]
	if from == arrived && w.s.spoofed4(&h, b) {
		return SpoofedSource // not even answered: it would go to whom it names
	}
	if from == arrived && h.dst4 == w.s.own4 && !w.forWorkload(&h, b) { // rule 1.3.own
		return Local
	}
	if from == arrived && w.hosts(&h, b) {
		return PortUnassigned // the host has it, and answers for itself; rule 1.3.host
	}
	upperLen, ok := 0, true
	if h.first() {
		upperLen, ok = upperSize(h.proto, b[h.upper:], h.fragment)
	}
	route, formed := options4(b[size4:h.upper])
	if !ok || !formed || !p.checkOffload(&h, 4) {
		return Malformed
	}
	if w.s.inside {
		e, waits := w.insideOwner(&h, b)
		if waits {
			return w.laterFragment(&h, b, from) // rule 1.6.held
		}
		if e != nil {
			return w.deliver4(p, &h, e, delivery{upperLen, route, from}) // rule 1.6.deliver
		}
	}
	if h.proto == protoICMP4 && !h.fragment && icmpError4(b[h.upper]) {
		return w.errorTo6(p, &h, route, from)
	}
	if v := w.addressesTo6(p, &h); v.IsDrop() {
		return v
	}
	if h.hops <= 1 && from == arrived {
		return w.reply4(p, HopLimitExceeded, icmp4TimeExceeded, 0, 0) // rule 2.hop-limit-out
	}
	if route {
		return w.reply4(p, SourceRoute, icmp4Unreachable, icmp4SourceRoute, 0) // rule 2.source-route
	}
	if v := w.protocolTo6(p, &h); v.IsDrop() {
		return v
	}
	if v := w.selectTo6(p, &h, from); v.IsDrop() {
		return v
	}
	v := w.finishTo6(p, &h, upperLen, from)
	if v == Forward6 && w.destination == 0 && !w.trial {
		if _, ce, _, ok := w.s.rules.To4(h.dst6); ok {
			w.s.rules.CountTo6(ce, w.loop)
		}
	}
	return v
}

// forWorkload reports whether a packet to the translator's own IPv4 address is for a
// workload: workloads share that address, and one of them owns the port.
func (w *Worker) forWorkload(h *parsed, b []byte) bool {
	e := w.s.table.Lookup4(h.dst4)
	if e == nil || !e.Shared() {
		return false
	}
	p := w.portTo6(h, b)
	return p.known && w.s.table.Port(e, h.dst4, p.number) != nil
}

// hosts says that a packet is for the host alone, with whom workloads share an
// address. What has no port where the kernel looks comes here as a copy, and
// nobody may hear of that. TCP and UDP to a port of the pool come here alone,
// and a later fragment may be a workload's whose first is still to come.
func (w *Worker) hosts(h *parsed, b []byte) bool {
	if w.s.host4 == 0 || h.dst4 != w.s.host4 || w.forWorkload(h, b) {
		return false
	}
	if w.s.table.Lookup4(h.dst4) == nil {
		return true
	}
	return h.first() && (h.fragment || h.proto != protoTCP && h.proto != protoUDP)
}

// addressesTo6 translates the source, and the destination where the prefix alone
// covers it; behind a mapping, which workload it is may hang on the port.
func (w *Worker) addressesTo6(p *Packet, h *parsed) (v Verdict) {
	if never4(h.src4) || never4(h.dst4) {
		return NeverTranslated
	}
	if h.src6, v = w.s.source6(h.src4, w.sender(h, p.Bytes())); v.IsDrop() {
		return w.reply4(p, v, icmp4Unreachable, icmp4Prohibited, 0) // RFC 7915 4.4; rule 2.untranslatable-source
	}
	if w.s.has4(h.dst4) {
		return Forward6
	}
	if h.dst6, v = w.s.embedDestination(h.dst4); v.IsDrop() {
		return w.reply4(p, v, icmp4Unreachable, icmp4Host, 0)
	}
	return Forward6
}

// protocolTo6 refuses what cannot be translated whatever its addresses.
func (w *Worker) protocolTo6(p *Packet, h *parsed) Verdict {
	l4 := p.Bytes()[h.upper:]
	switch h.proto {
	case protoICMP6:
		return ICMPUntranslatable // ICMPv6 over IPv4 would turn up as the real one
	case protoHopByHop, protoRouting, protoFragment, protoDestination: // rule 2.extension-protocol
		return Malformed // what stands behind would turn up as the real one, past all that judged the IPv4 packet
	case protoAH, protoMobility, protoHIP, protoShim6: // rule 2.untranslatable-protocol
		return w.reply4(p, ProtocolUntranslatable, icmp4Unreachable, icmp4Prohibited, 0)
	case protoICMP4:
		if h.fragment {
			return ICMPFragment // rule 2.icmp-fragment
		}
		if !echo(protoICMP4, l4[0]) || l4[1] != 0 { // rule 6.informational-other
			return ICMPUntranslatable
		}
	case protoUDP:
		// A partial checksum may well be 0: it is no missing one.
		if h.first() && l4[6] == 0 && l4[7] == 0 && p.Flags&FlagNeedsCsum == 0 { // rule 5.flag-before-zero
			return w.zeroChecksum(p, h)
		}
	}
	return Forward6
}

// zeroChecksum judges IPv4 UDP without a checksum (RFC 7915 4.5).
func (w *Worker) zeroChecksum(p *Packet, h *parsed) Verdict {
	mode := w.s.config.UDPZeroChecksum
	if mode == ForwardZeroChecksum || mode == CalculateZeroChecksum && !h.fragment { // rule 4.zero-fragment
		return Forward6
	}
	if mode == DropZeroChecksum {
		return UDPZeroChecksumRefused // rule 4.zero-drop
	}
	return w.reply4(p, UDPZeroChecksumRefused, icmp4Unreachable, icmp4Prohibited, 0) // rule 4.zero-reject
}

// selectTo6 finds the workload that a packet is for.
func (w *Worker) selectTo6(p *Packet, h *parsed, from way) (v Verdict) {
	if !w.s.has4(h.dst4) {
		return Forward6 // addressesTo6 has put it into the prefix
	}
	if !w.s.shared4(h.dst4) {
		if v = w.toWorkload(h, port{}); v.IsDrop() {
			return w.reply4(p, v, icmp4Unreachable, icmp4Host, 0)
		}
		return w.judgeIn(p, h, w.s.table.At(w.destination), from)
	}
	if !shareable(h.proto) {
		return ProtocolNotShareable
	}
	b := p.Bytes()
	if !h.first() {
		if v = w.laterFragment(h, b, from); v.IsDrop() {
			return v
		}
		return w.judgeIn(p, h, w.s.table.At(w.destination), from)
	}
	_, number, _ := portsOf(h.proto, b[h.upper:]) // rule 1.3.destination-port
	v = w.toWorkload(h, port{number, true})
	if v.IsDrop() && h.proto != protoTCP && h.proto != protoUDP { // rule 1.3.unassigned
		return v
	}
	if v.IsDrop() {
		return w.reply4(p, v, icmp4Unreachable, icmp4Port, 0) // rule 1.3.unassigned-answered
	}
	if v = w.judgeIn(p, h, w.s.table.At(w.destination), from); v.IsDrop() {
		return v // and what is held for it goes with it
	}
	if h.fragment {
		w.firstFragment(h, number)
	}
	// Rule 1.3.echo-no-trailer.
	if h.proto == protoICMP4 && b[h.upper] == icmp4EchoReply && trailed(&w.s.config.Key, h.dst6, b[h.upper:]) {
		h.trailer = sizeTrailer
		p.End -= sizeTrailer
		h.length -= sizeTrailer
	}
	return Forward6
}

// toWorkload translates the destination, behind which a workload may be.
func (w *Worker) toWorkload(h *parsed, p port) (v Verdict) {
	var e *mapping.Entry
	h.dst6, e, v = w.s.destination6(h.dst4, p)
	w.destination = slotOf(e)
	w.src4, w.dst4 = h.src4, h.dst4
	return v
}

// portTo6 is the port that decides which workload an IPv4 packet is for.
func (w *Worker) portTo6(h *parsed, b []byte) (p port) {
	l4 := b[h.upper:]
	switch {
	case !h.first():
		return w.t.tracker.find(&w.s.config.Key, keyOf(h), w.now)
	case h.proto == protoICMP4 && len(l4) >= 8 && icmpError4(l4[0]):
		var q parsed
		if quote, _ := splitQuote(l4[8:], int(l4[5])*4); !q.read4(quote, true).IsDrop() {
			p, _ = q.ends(quote)
		}
	default:
		_, p.number, p.known = portsOf(h.proto, l4)
	}
	return p
}

// finishTo6 sees to the size of a packet about which all else is settled, and
// rewrites it.
func (w *Worker) finishTo6(p *Packet, h *parsed, upperLen int, from way) Verdict {
	header := size6 // rule 2.no-atomic
	if h.fragment {
		header += sizeFragment
	}
	length := p.segmentLen(h.upper+upperLen, h.length) - h.upper + header
	cut := false
	switch {
	case h.df && length > w.s.mtu6: // rule 2.too-big
		p.End += h.trailer                                                                       // what is quoted is what came
		return w.reply4(p, TooBig, icmp4Unreachable, icmp4TooBig, uint32(w.s.mtu6-header+size4)) // rule 2.too-big-fragment
	case !h.df && length > w.s.config.LowestMTU6:
		if p.GSOType != GSONone {
			return Segment // rule 5.segment
		}
		cut = true
		header = size6 + sizeFragment
	}
	w.upperTo6(p, h)
	if cut {
		p.complete(h)                               // rule 5.finish
		w.cut = cutting{active: true, more: h.more} // rule 2.fragmented
	}
	w.headerTo6(p, h, header, from)
	p.moved(header, upperLen)
	return Forward6
}

// headerTo6 replaces the IPv4 header by an IPv6 one of size bytes.
func (w *Worker) headerTo6(p *Packet, h *parsed, size int, from way) {
	hops, class := h.hops, h.class // rule 2.traffic-class
	if from == arrived {           // rule 1.4.one-decrement
		hops-- // rule 2.hop-limit
	}
	if w.s.zeroClass { // rule 2.traffic-class-knob
		class = 0
	}
	p.Start += h.upper - size
	b := p.Bytes()
	next := h.proto // rule 2.next-header
	if next == protoICMP4 {
		next = protoICMP6 // rule 2.next-header-icmp
	}
	if size > size6 {
		putFragment(b[size6:], next, h.offset, h.more, h.id) // rule 2.fragment
		next = protoFragment
	}
	put6(b, class, len(b)-size6, next, hops, h.src6, h.dst6) // rules 2.payload-length, 2.addresses
}

// upperTo6 translates the upper layer where it stands.
func (w *Worker) upperTo6(p *Packet, h *parsed) {
	if !h.first() {
		return
	}
	l4 := p.Buf[p.Start+h.upper : p.End]
	partial := p.Flags&FlagNeedsCsum != 0
	if h.proto == protoICMP4 {
		if h.trailer != 0 {
			unfoldEcho(&w.s.config.Key, h.dst6, p.Buf[p.Start+h.upper:p.End+h.trailer]) // rule 1.3.echo-unfold
		}
		echoTo6(l4, h.src6, h.dst6, len(l4), partial)
		return
	}
	if h.proto == protoUDP && !partial && l4[6] == 0 && l4[7] == 0 &&
		w.s.config.UDPZeroChecksum == CalculateZeroChecksum { // rule 4.zero-calculate
		p.calculate(h, l4)
		return
	}
	fixUpper(h.proto, l4, difference(addresses4(h.src4, h.dst4), addresses6(h.src6, h.dst6)), partial)
}

// calculate gives IPv4 UDP the checksum it lacks (RFC 7915 4.5). Every segment
// of a superpacket needs one, which only the device can see to.
func (p *Packet) calculate(h *parsed, l4 []byte) {
	length := int(binary.BigEndian.Uint16(l4[4:]))
	pseudo := pseudo6(h.src6, h.dst6, length, protoUDP)
	if p.GSOType != GSONone {
		binary.BigEndian.PutUint16(l4[6:], fold(pseudo))
		p.Flags |= FlagNeedsCsum // rule 4.zero-calculate-super
		p.CsumOffset = 6
		return
	}
	binary.BigEndian.PutUint16(l4[6:], neverZero(^fold(add(pseudo, sum(l4[:length])))))
}

// complete does what the device would have done with a partial checksum, which
// it cannot once the packet is in fragments.
func (p *Packet) complete(h *parsed) {
	if p.Flags&FlagNeedsCsum == 0 {
		return
	}
	l4 := p.Buf[p.Start+h.upper : p.End]
	at := checksumOffset(h.proto)
	c := ^fold(sum(l4))
	if h.proto == protoUDP || h.proto == protoUDPLite {
		c = neverZero(c)
	}
	binary.BigEndian.PutUint16(l4[at:], c)
	p.Flags &^= FlagNeedsCsum
	p.CsumStart, p.CsumOffset = 0, 0
}

// neverZero is how a UDP checksum of 0 is sent (RFC 768).
func neverZero(c uint16) uint16 {
	if c == 0 {
		return 0xffff
	}
	return c
}
