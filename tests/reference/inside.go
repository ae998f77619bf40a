package reference

import (
	"encoding/binary"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// pass forwards what a workload with IPv4 inside has sent (1.6).
func (c *call) pass() {
	i := slices.IndexFunc(c.t.Mappings, func(m mapping.Mapping) bool { return m.IPv6 == c.in.From })
	m := &c.t.Mappings[i]
	d, why := read4(c.in.Bytes, false)
	if why != ok || d.beyond() {
		if why == ok {
			why = translator.Malformed
		}
		c.fault(why)
		return
	}
	c.allowed, c.subject = answerable(d), d
	c.silent = d.isICMP() && len(d.upper) == 0
	if d.src != m.IPv4.Addr() {
		c.rule("1.6.source")
		c.faultReply(translator.SpoofedSource, 3, 13, 0)
		return
	}
	c.form4(d)
	if within(d.dst, never4) {
		c.rule("1.6.never")
		c.fault(translator.NeverTranslated)
	}
	if d.ttl <= 1 && (d.dst != c.t.IPv4 && d.dst != c.t.Host4 || c.forWorkload(d)) {
		c.rule("1.6.hop-limit-out")
		c.faultReply(translator.HopLimitExceeded, 11, 0, 0)
	}
	b := c.t.copied(c.in.Bytes[:d.total])
	if slices.ContainsFunc(c.faults, func(o Outcome) bool { return o.Verdict == translator.Malformed }) {
		return
	}
	if d.isICMP() && !d.later() && isError(icmp4, d.upper[0]) {
		c.errorOf(d, m, b[d.upperAt:])
	} else if !m.Ports.IsZero() {
		b = c.own(d, m, b)
	}
	if !d.isICMP() || d.later() || !isError(icmp4, d.upper[0]) {
		c.police(d, m, true, d.dst)
	}
	if !m.Ports.IsZero() {
		c.rule("1.6.identification")
		base, mask := c.hints.Partition(*m)
		binary.BigEndian.PutUint16(b[4:], base|d.id&mask)
	}
	c.passOn(d, b)
}

// form4 is what is wrong with a packet whatever its addresses.
func (c *call) form4(d *datagram) {
	if d.badOption || c.oddOffload(d) {
		c.fault(translator.Malformed)
	}
	if d.route {
		c.rule("1.6.source-route")
		c.faultReply(translator.SourceRoute, 3, 5, 0)
	}
	if _, fits := headerLength(d.protocol, d.upper); !d.later() && (!fits || badUDPLength(d)) {
		c.fault(translator.Malformed)
	}
}

// own: a workload that shares its address keeps to its ports.
func (c *call) own(d *datagram, m *mapping.Mapping, b []byte) []byte {
	if !shareable(d.protocol) || d.protocol == icmp6 {
		c.rule("1.6.no-ports")
		c.fault(translator.ProtocolNotShareable)
		return b
	}
	if d.later() {
		return b
	}
	sp, _, has := portsOf(d.protocol, d.upper)
	switch {
	case !has:
		c.rule("1.6.informational-other")
		c.fault(translator.ICMPUntranslatable)
	case owns(m, sp):
		c.rule("1.6.source-port")
	case d.isICMP() && d.fragmented():
		c.rule("1.6.echo-fragment")
		c.fault(translator.ICMPFragment)
	case d.isICMP() && d.upper[0] == 8 && !c.partial(d):
		return c.fold4(d, m, b, sp)
	default:
		c.rule("1.6.source-port-outside")
		c.faultReply(translator.PortOutsideSet, 3, 13, 0)
	}
	return b
}

// fold4 is fold for an echo request that stays IPv4.
func (c *call) fold4(d *datagram, m *mapping.Mapping, b []byte, id uint16) []byte {
	c.rule("1.6.echo-fold")
	base, size := EchoRun(m.Ports)
	folded := uint16(base + int(id)%size)
	trailer := make([]byte, 8)
	copy(trailer, c.hints.Trailer)
	binary.BigEndian.PutUint16(trailer[2:], id)
	upper := append(c.t.copied(d.upper), trailer...)
	binary.BigEndian.PutUint16(upper[4:], folded)
	c.t.trailers[trailerKey{m.IPv6, folded, binary.BigEndian.Uint16(upper[6:]), [8]byte(trailer)}] = true
	resum(d.upper, upper)
	b = append(b[:d.upperAt:d.upperAt], upper...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// resum makes the checksum of an ICMPv4 message as right or wrong as that of
// another was.
func resum(old, b []byte) {
	field := binary.BigEndian.Uint16(old[2:])
	v := equallyWrong(field, sum(old[:2], old[4:]), sum(b[:2], b[4:]))
	binary.BigEndian.PutUint16(b[2:], v)
}

// errorOf: an ICMP error of a workload is about a packet to it.
func (c *call) errorOf(d *datagram, m *mapping.Mapping, b []byte) {
	q := c.errorQuote(d)
	if q == nil {
		return
	}
	c.policeQuote(q, m, false, q.src)
	if q.dst != m.IPv4.Addr() {
		c.rule("1.6.error-sender")
		c.fault(translator.SpoofedSource)
	}
	if m.Ports.IsZero() {
		return
	}
	c.quotable(q)
	c.enforceQuote(q, m)
	if _, _, has := portsOf(q.protocol, q.upper); q.later() || !has {
		c.noPort(c.fault)
	} else if dp := binary.BigEndian.Uint16(q.upper[2:]); q.protocol != icmp4 && !owns(m, dp) {
		c.rule("1.6.quoted-outside")
	}
	if mtu := binary.BigEndian.Uint16(b[6:]); b[0] == 3 && b[1] == 4 && mtu < 1280 {
		c.rule("1.6.error-mtu")
		binary.BigEndian.PutUint16(b[6:], 1280)
		resum(d.upper, b)
	}
}

// errorQuote is what an ICMP error is about; nil where that cannot be told.
func (c *call) errorQuote(d *datagram) *datagram {
	if d.upper[0] == 4 || d.upper[0] == 5 {
		c.rule("1.6.error-types")
		c.fault(translator.ICMPUntranslatable)
	}
	if d.fragmented() {
		c.fault(translator.ICMPFragment)
	}
	q, why := read4(readMessage(d.upper, lengthAt4, 4).quote, true)
	if why != ok {
		c.fault(why)
		return nil
	}
	return q
}

// passOn sends b, which d has become, on its way.
func (c *call) passOn(d *datagram, b []byte) {
	grown := len(b) - d.total
	segment := d.upperAt + c.segment(d) + grown
	again := len(c.t.covering4(d.dst)) > 0
	ends := (d.dst == c.t.IPv4 || d.dst == c.t.Host4) && !c.forWorkload(d)
	if len(b) > 65535 {
		c.faultReply(translator.TooBig, 3, 4, uint32(65535-grown))
	}
	if !again && d.dst != c.t.IPv4 && d.dst != c.t.Host4 {
		if c.nobodys(d.dst) {
			c.rule("1.6.nobody")
			c.faultReply(translator.UntranslatableDestination, 3, 1, 0)
		}
		if d.df && segment > c.t.MTU4 {
			c.rule("1.6.too-big")
			c.faultReply(translator.TooBig, 3, 4, uint32(c.t.MTU4-grown))
		}
	}
	if again && !ends && c.gso() && !d.df && segment > c.t.LowestMTU6 && len(c.faults) == 0 {
		c.forward(translator.Segment, Packet{Bytes: c.in.Bytes[:d.total], Offload: c.in.Offload})
		return
	}
	if len(c.faults) > 0 {
		return
	}
	seal(b)
	out := Packet{Bytes: b, Offload: c.headed(d)}
	now, _ := read4(b, false)
	switch {
	case d.dst == c.t.IPv4 && !c.forWorkload(now):
		c.forUs()
	case !again:
		c.rule("1.6.pass")
		c.forward(translator.Pass4, out)
	default:
		if v, yes := c.staysOut(out, d.dst); yes && v != translator.Local {
			c.forward(translator.Pass4, out)
			return
		}
		c.rule("1.6.one-decrement")
		b[8]--
		seal(b)
		c.goBack(out)
	}
}

// headed is the virtio-net header with the length of the headers.
func (c *call) headed(d *datagram) translator.Offload {
	o := c.in.Offload
	if c.gso() {
		n, _ := headerLength(d.protocol, d.upper)
		o.HdrLen = uint16(d.upperAt + n)
	}
	return o
}

func seal(b []byte) {
	ip := header.IPv4(b)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
}

// inside gives a packet to the workload that it is for, if that one has its IPv4
// address inside, or holds a fragment until it is known.
func (c *call) inside(d *datagram) bool {
	if c.t.Client || !slices.ContainsFunc(c.t.Mappings, func(m mapping.Mapping) bool { return m.Inside }) {
		return false
	}
	list := c.t.covering4(d.dst)
	if len(list) == 0 {
		return false
	}
	owner := list[0]
	if shared(list) {
		if d.badOption || c.oddOffload(d) {
			return false // and so is the packet
		}
		port, known := c.deciding(d)
		if d.later() && !known {
			c.rule("1.6.held")
			c.trackedOwner(d, list)
			c.hold(d)
			return true
		}
		if owner = ownerOf(list, port); !known {
			owner = nil
		}
	}
	if owner == nil || !owner.Inside {
		return false
	}
	c.deliver(d, owner)
	return true
}

// deliver gives an IPv4 packet to the workload that has the address inside.
func (c *call) deliver(d *datagram, m *mapping.Mapping) {
	c.rule("1.6.deliver")
	c.form4(d)
	if d.ttl <= 1 && !c.hairpin {
		c.rule("1.6.deliver-expired")
		c.faultReply(translator.HopLimitExceeded, 11, 0, 0)
	}
	if slices.ContainsFunc(c.faults, func(o Outcome) bool { return o.Verdict == translator.Malformed }) {
		return
	}
	b := c.t.copied(c.in.Bytes[:d.total])
	if d.isICMP() && !d.later() && isError(icmp4, d.upper[0]) {
		c.errorFor(d, m, b[d.upperAt:])
	} else {
		if within(d.src, never4) {
			c.fault(translator.NeverTranslated)
		}
		c.police(d, m, false, d.src)
	}
	if !m.Ports.IsZero() && d.frag != nil && !d.later() && len(c.faults) == 0 {
		c.track(d, m)
	}
	if d.isICMP() && d.frag == nil && !c.partial(d) && d.upper[0] == 0 {
		if upper := c.unfold(d, c.t.copied(d.upper), m); len(upper) < len(d.upper) {
			c.rule("1.6.echo-unfold")
			resum(d.upper, upper)
			b = append(b[:d.upperAt:d.upperAt], upper...)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		}
	}
	if !c.hairpin {
		c.rule("1.6.hop-limit")
		b[8]--
	}
	c.handOver(d, b)
}

// handOver is the rules about sizes of 1.6.
func (c *call) handOver(d *datagram, b []byte) {
	segment := d.upperAt + c.segment(d) + len(b) - d.total
	switch {
	case segment <= c.t.MTU6:
		seal(b)
		c.forward(translator.Deliver4, Packet{Bytes: b, Offload: c.headed(d)})
	case d.df:
		c.rule("1.6.deliver-too-big")
		c.faultReply(translator.TooBig, 3, 4, uint32(c.t.MTU6))
	case c.gso():
		c.forward(translator.Segment, Packet{Bytes: c.in.Bytes[:d.total], Offload: c.in.Offload})
	default:
		c.rule("1.6.cut")
		whole := *d
		whole.upper = b[d.upperAt:]
		if c.partial(d) {
			finish(&whole)
		}
		c.forward(translator.Deliver4, c.pieces(b, d)...)
	}
}

// pieces cuts an IPv4 packet, all of whose options go with each.
func (c *call) pieces(b []byte, d *datagram) (out []Packet) {
	step := (c.t.LowestMTU6 - d.upperAt) / 8 * 8
	for at := d.upperAt; at < len(b); at += step {
		end := min(at+step, len(b))
		piece := append(slices.Clone(b[:d.upperAt]), b[at:end]...)
		binary.BigEndian.PutUint16(piece[2:], uint16(len(piece)))
		offset := at - d.upperAt
		more := end < len(b)
		if d.frag != nil {
			offset, more = offset+d.frag.offset, more || d.frag.more
		}
		binary.BigEndian.PutUint16(piece[6:], uint16(offset/8))
		if more {
			piece[6] |= 0x20
		}
		seal(piece)
		out = append(out, Packet{Bytes: piece})
	}
	return out
}

// errorFor: an ICMP error for a workload is about a packet of that workload.
func (c *call) errorFor(d *datagram, m *mapping.Mapping, b []byte) {
	if d.src.IsMulticast() || d.src == allOnes {
		c.fault(translator.NeverTranslated)
	}
	q := c.errorQuote(d)
	if q == nil {
		return
	}
	c.policeQuote(q, m, true, q.dst)
	_, dp, has := portsOf(q.protocol, q.upper)
	if q.src != d.dst {
		c.fault(translator.SpoofedSource)
	}
	if !c.hairpin && (c.t.covered(q.dst, dp, has && !q.later()) || c.t.ours(q.dst) && q.dst != c.t.Host4) {
		c.rule("1.6.error-inside")
		c.fault(translator.SpoofedSource)
	}
	if q.protocol != icmp4 || q.fragmented() || len(q.upper) < q.claimed || len(q.upper) < 16 || q.upper[0] != 8 {
		return
	}
	trailer := [8]byte(q.upper[len(q.upper)-8:])
	if !c.t.trailers[trailerKey{m.IPv6, binary.BigEndian.Uint16(q.upper[4:]), binary.BigEndian.Uint16(q.upper[6:]), trailer}] {
		return
	}
	c.rule("1.6.quote-unfold")
	quote := b[8+q.upperAt : 8+q.upperAt+len(q.upper)]
	copy(quote[4:6], trailer[2:4])
	resum(q.upper, quote)
	resum(d.upper, b)
}
