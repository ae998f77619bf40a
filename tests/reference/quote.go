package reference

import (
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// quoteTo6 translates the packet that an ICMPv4 error quotes: one that a
// workload has sent 6→4.
func (c *call) quoteTo6(b []byte) []byte {
	old, why := read4(b, true)
	if why != ok {
		c.rule("7.malformed")
		c.fault(why)
		return nil
	}
	quotable := c.quotable(old)
	c.quoteRules(old)
	d := &datagram{tos: old.tos, ttl: old.ttl, protocol: old.protocol, claimed: old.claimed, frag: old.frag}
	if c.t.ZeroTrafficClass {
		d.tos = 0
	}
	sp, dp, has := portsOf(old.protocol, old.upper)
	owner := func(a netip.Addr, port uint16) *mapping.Mapping {
		list := c.t.covering4(a)
		if !shared(list) {
			return nil
		}
		if !has || old.later() {
			c.noPort(c.open)
			return nil
		}
		m := ownerOf(list, port)
		if m == nil {
			c.open(translator.PortUnassigned)
		}
		return m
	}
	d.src, why = c.workload6(old.src, owner(old.src, sp), translator.UntranslatableSource)
	if why != ok {
		c.fault(why)
	}
	if !c.hairpin && !c.t.Client && (c.t.covered(old.dst, dp, has && !old.later()) || c.t.ours(old.dst) && old.dst != c.t.Host4) {
		c.rule("6.error-inside")
		c.fault(translator.SpoofedSource)
	}
	if c.hairpin && !c.t.Prefix.IsValid() {
		c.open(translator.UntranslatableDestination)
	}
	if c.t.Prefix.IsValid() && !c.t.Client {
		// The workload that is told has sent to the prefix, not to the mapping.
		d.dst, why = c.byPrefix(old.dst, translator.UntranslatableDestination)
	} else {
		to := owner(old.dst, dp)
		if to == nil && c.t.Client && shared(c.t.covering4(old.dst)) {
			c.fault(translator.PortOutsideSet)
		}
		if d.dst, why = c.address6(old.dst, to, translator.UntranslatableDestination); c.t.half && len(c.t.covering4(old.dst)) == 0 {
			why = translator.UntranslatableDestination
		}
	}
	if why != ok {
		c.fault(why)
	}
	if len(c.faults) > 0 || !quotable {
		return nil
	}
	changed := c.t.copied(old.upper)
	if old.isICMP() {
		d.protocol = icmp6
		retype(icmp6, changed)
	}
	carry(old, d, changed, false)
	return c.write6(d)
}

// quotable refuses what is quoted but cannot be translated.
func (c *call) quotable(d *datagram) bool {
	c.foreign(d)
	c.carried(d, c.fault)
	switch {
	case d.isICMP() && d.fragmented():
		c.rule("2.icmp-fragment")
		c.fault(translator.ICMPFragment)
	case d.isICMP() && len(d.upper) > 0 && isError(d.protocol, d.upper[0]):
		c.rule("6.quote-error")
		c.fault(translator.ICMPErrorInError)
	case d.isICMP() && len(d.upper) > 0 && !isEcho(d.protocol, d.upper[0]):
		c.rule("6.informational-other")
		c.fault(translator.ICMPUntranslatable)
	default:
		return true
	}
	return false
}

func (c *call) quoteRules(d *datagram) {
	c.rule("6.quote", "6.quote-ttl")
	if len(d.upper) < d.claimed {
		c.rule("6.quote-truncated")
	}
	if d.frag != nil {
		c.rule("6.quote-fragment")
	}
}

// quoteTo4 translates the packet that an ICMPv6 error quotes: one that came to a
// workload 4→6. m is the mapping of the error's own source, which became from.
func (c *call) quoteTo4(b []byte, from netip.Addr, m *mapping.Mapping) []byte {
	old, why := read6(b, true)
	if why != ok {
		c.rule("6.quote-truncated")
		c.fault(why)
	}
	if old == nil {
		return nil
	}
	malformed := why != ok
	c.quotedHeaders(old)
	quotable := c.quotable(old)
	c.quoteRules(old)
	c.enforceQuote(old, m)
	d := &datagram{tos: old.tos, ttl: old.ttl, protocol: old.protocol, claimed: old.claimed}
	if c.t.ZeroTrafficClass {
		d.tos = 0
	}
	d.src, _, why = c.address4(old.src, translator.UntranslatableSource)
	if why != ok {
		c.fault(why)
	}
	var to *mapping.Mapping
	d.dst, to, why = c.address4(old.dst, translator.UntranslatableDestination)
	if m != nil && (to != m || d.dst != from) {
		c.rule("6.error-sender")
		c.fault(translator.SpoofedSource) // it was not sent to the workload
	}
	c.otherCE(c.subject.src, old.dst)
	if to != m {
		c.mayEnforceQuote(old, to)
	}
	c.policeQuote(old, to, false, d.src)
	if why != ok {
		c.fault(why)
	}
	if len(c.faults) > 0 || !quotable || malformed {
		return nil
	}
	switch {
	case old.frag != nil:
		d.id = uint16(old.frag.id)
		if !old.atomic() {
			d.frag = old.frag
		}
	case 20+old.claimed > 1260:
		d.df = true
	default:
		d.id = c.hints.QuotedIdentification
	}
	changed := c.t.copied(old.upper)
	if old.isICMP() {
		d.protocol = icmp4
		retype(icmp4, changed)
	}
	carry(old, d, changed, false)
	return c.write4(d)
}

// quotedHeaders refuses a quoted IPv6 packet for its headers.
func (c *call) quotedHeaders(old *datagram) {
	if old.behind {
		c.fault(translator.HeaderBehindFragment)
	}
	if old.segmentsLeft != 0 {
		c.fault(translator.RoutingHeader)
	}
	if 20+old.claimed > 65535 {
		c.fault(translator.Malformed) // IPv4 cannot say that length
	}
}

// enforceQuote: an error from a workload that shares an address is about a
// packet to one of its ports (1.3).
func (c *call) enforceQuote(d *datagram, m *mapping.Mapping) {
	if m == nil || m.Ports.IsZero() {
		return
	}
	_, dp, has := portsOf(d.protocol, d.upper)
	switch {
	case !shareable(d.protocol):
		c.rule("1.3.no-ports")
		c.fault(translator.ProtocolNotShareable)
	case d.later() || d.behind || !has:
		c.noPort(c.open)
	case !owns(m, dp):
		c.rule("1.3.quoted-outside")
		c.fault(translator.PortOutsideSet)
	default:
		c.rule("1.3.quoted-destination-port")
	}
}

// mayEnforceQuote: an error from a router, about a packet to a workload that
// would not have got it, is nobody's rule.
func (c *call) mayEnforceQuote(d *datagram, m *mapping.Mapping) {
	if m == nil || m.Ports.IsZero() {
		return
	}
	_, dp, has := portsOf(d.protocol, d.upper)
	if d.later() || d.behind || !has {
		c.noPort(c.open)
	} else if !owns(m, dp) {
		c.open(translator.PortOutsideSet)
	}
}
