package reference

import (
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// to4 translates 6→4 (sections 3 and 6).
func (c *call) to4() {
	d, why := read6(c.in.Bytes, false)
	if d != nil && c.spoofed(d) {
		return
	}
	if why != ok {
		c.rule("7.malformed")
		c.fault(why)
		c.brokenChain(d)
		return
	}
	if d.total < len(c.in.Bytes) {
		c.rule("7.trailing")
	}
	c.allowed = answerable(d)
	c.subject = d
	if d.dst == c.t.IPv6 {
		c.forUs()
		return
	}
	if d.beyond() {
		c.rule("7.malformed")
		c.fault(translator.Malformed)
	}
	c.silent = d.isICMP() && (len(d.upper) == 0 || !isEcho(d.protocol, d.upper[0]))
	if d.ttl <= c.hop() {
		c.rule("3.ttl-out")
		c.faultReply(translator.HopLimitExceeded, 3, 0, 0)
	}
	c.headers(d)
	if c.oddOffload(d) {
		c.rule("5.mismatch")
		c.fault(translator.Malformed)
	}
	readable := c.readable(d, "3.icmp-fragment")
	if readable && d.isICMP() && isError(icmp6, d.upper[0]) {
		c.errorTo4(d)
		return
	}
	c.informational(d, readable)
	src, dst, m := c.addressesTo4(d, readable)
	if dst == c.t.IPv4 && len(c.t.covering4(dst)) == 0 {
		c.forUs()
	}
	if readable {
		if !d.isICMP() || isEcho(d.protocol, d.upper[0]) {
			c.police(d, m, true, dst)
		}
		c.packetTo4(d, src, dst, m)
	}
}

// brokenChain looks for further faults in a packet whose extension headers do
// not fit; d may be nil.
func (c *call) brokenChain(d *datagram) {
	if d == nil {
		return
	}
	c.subject = d
	if d.dst == c.t.IPv6 {
		c.forUs()
		return
	}
	if d.behind { // where one may stop to look
		c.fault(translator.HeaderBehindFragment)
		c.addressesTo4(d, false)
		if d.segmentsLeft != 0 {
			c.fault(translator.RoutingHeader)
		}
		if d.ttl <= c.hop() {
			c.fault(translator.HopLimitExceeded)
		}
	}
}

// headers is what section 3 says about extension headers.
func (c *call) headers(d *datagram) {
	if d.upperAt > 40 && (d.frag == nil || d.upperAt > 48) {
		c.rule("3.extension-headers")
	}
	if d.segmentsLeft != 0 {
		c.rule("3.routing-header")
		c.faultReply(translator.RoutingHeader, 4, 0, uint32(d.segmentsLeft))
	}
	if d.behind {
		c.open(translator.Malformed) // nobody promises to look behind it
		c.rule("3.header-behind-fragment")
		c.faultReply(translator.HeaderBehindFragment, 1, 1, 0)
	}
}

// addressesTo4 translates both addresses of a packet that is not an ICMP error.
func (c *call) addressesTo4(d *datagram, readable bool) (src, dst netip.Addr, m *mapping.Mapping) {
	src, m, why := c.address4(d.src, translator.UntranslatableSource)
	if why == translator.UntranslatableSource && c.firstUse(d) {
		src = netip.IPv4Unspecified()
	} else if why != ok {
		c.rule("3.untranslatable-source")
		c.untranslatable6(why, 5)
		src = netip.IPv4Unspecified()
	} else if m != nil && !m.Ports.IsZero() {
		c.enforce(d, m, readable)
	}
	if m != nil && m.Inside {
		c.rule("1.6.closed")
		c.faultReply(translator.PrefixClosed, 1, 1, 0)
	}
	dst, why = c.destination4(d.dst)
	if why != ok {
		c.rule("3.untranslatable-destination")
		c.untranslatable6(why, 0)
		dst = netip.IPv4Unspecified()
	}
	return src, dst, m
}

// untranslatable6 answers with ICMPv6 1/code; an address that is never
// translated may also be one that nobody should answer about.
func (c *call) untranslatable6(why translator.Verdict, code byte) {
	if why == translator.NeverTranslated {
		c.faultMay(why, 1, code, 0)
		return
	}
	c.faultReply(why, 1, code, 0)
}

// packetTo4 checks lengths and writes what is not an ICMP error.
func (c *call) packetTo4(old *datagram, src, dst netip.Addr, m *mapping.Mapping) {
	d := &datagram{src: src, dst: dst, tos: old.tos, ttl: old.ttl - c.hop(), protocol: old.protocol, claimed: old.claimed}
	c.rule("3.version", "3.tos", "3.total-length", "3.ttl", "3.protocol", "3.addresses")
	if c.t.ZeroTrafficClass {
		c.rule("3.tos-knob")
		d.tos = 0
	}
	changed := c.t.copied(old.upper)
	if old.isICMP() {
		d.protocol = icmp4
		retype(icmp4, changed)
		c.rule("6.echo", "3.protocol-icmp")
		changed = c.fold(old, changed, m)
		d.claimed = len(changed)
	}
	partial := c.partial(old)
	carry(old, d, changed, partial)
	c.upperRules(old, partial)
	segment := 20 + c.segment(old) + d.claimed - old.claimed
	c.identify(old, d, m, segment)
	again := len(c.t.covering4(dst)) > 0 && len(c.faults) == 0 && !c.local && !c.t.Client
	if d.df && segment > c.t.MTU4 {
		c.rule("3.too-big")
		if d.claimed != old.claimed {
			c.rule("1.3.echo-mtu")
		}
		if c.gso() {
			c.rule("5.segment-size")
		}
		// What is appended to an echo request must fit as well.
		mtu := uint32(max(1280, c.t.MTU4+20-(d.claimed-old.claimed)))
		if !again {
			c.faultReply(translator.TooBig, 2, 0, mtu)
			return
		}
		// Nothing in a hairpin crosses the IPv4 side; it may be held to its MTU.
		if c.allowed {
			c.results = append(c.results, Outcome{translator.TooBig | translator.Replied, []Packet{c.answer(2, 0, mtu)}})
		}
	}
	if 20+d.claimed > 65535 {
		c.rule("7.length")
		switch {
		case c.gso() && len(c.faults) == 0: // for the translator itself, too
			c.results = append(c.results, Outcome{translator.Segment, []Packet{{Bytes: c.in.Bytes[:old.total], Offload: c.in.Offload}}})
		case !c.gso():
			c.faultReply(translator.TooBig, 2, 0, uint32(max(1280, c.t.MTU4+20-(d.claimed-old.claimed))))
		}
		return
	}
	out := Packet{Bytes: c.write4(d), Offload: c.offload(old, d, 20)}
	c.onward(out, dst, again)
}

// onward says where a packet goes that is IPv4 now.
func (c *call) onward(p Packet, dst netip.Addr, again bool) {
	if !again {
		c.forward(translator.Forward4, p)
		return
	}
	switch v, yes := c.staysOut(p, dst); {
	case !yes:
		c.goBack(p)
	case v == translator.Local:
		c.forUs()
	default:
		c.rule("1.4.host")
		c.forward(v, p)
	}
}

// identify sets identification, DF, MF and offset (section 3).
func (c *call) identify(old, d *datagram, m *mapping.Mapping, segment int) {
	switch {
	case old.frag != nil:
		c.rule("3.identification-fragment", "3.df-fragment", "3.mf-offset")
		d.id = uint16(old.frag.id)
		if old.atomic() {
			c.rule("3.atomic")
		} else {
			d.frag = old.frag
		}
		if m != nil && !m.Ports.IsZero() {
			c.rule("1.3.identification")
			base, mask := c.hints.Partition(*m)
			d.id = base | d.id&mask
		}
	case segment > 1260:
		c.rule("3.df", "3.identification-df")
		d.df = true
	default:
		c.rule("3.df", "3.identification-counter")
		d.id = max(1, c.hints.Identification)
	}
}

// goBack is the second half of a hairpin (1.4).
func (c *call) goBack(p Packet) {
	if len(c.faults) > 0 {
		return
	}
	c.rule("1.4.hairpin")
	half := &call{t: c.t, in: p, hints: c.hints, hairpin: true, reading: c.reading, asked: c.asked}
	half.to6()
	c.faults = append(c.faults, half.faults...)
	c.results = append(c.results, half.results...)
}

// hairpinFault is a fault that the second half of a hairpin found. The sender
// is an IPv6 host; what it is told, the rules do not say.
func (c *call) hairpinFault(v translator.Verdict) {
	c.fault(v)
	c.faults = append(c.faults, Outcome{Verdict: v | translator.Replied})
}
