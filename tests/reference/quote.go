package reference

import (
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// quote4 translates the packet that an ICMPv4 error quotes: one that a
// workload has sent 6→4.
func (c *call) quote4(b []byte) []byte {
	old, why := read4(b, true)
	if why != ok {
		c.rule("6.quote-malformed")
		c.fault(why)
		return nil
	}
	if !c.quotable(old) {
		return nil
	}
	c.quoteRules(old)
	d := &datagram{tos: old.tos, ttl: old.ttl, protocol: old.protocol, claimed: old.claimed, frag: old.frag}
	if c.t.ZeroTrafficClass {
		d.tos = 0
	}
	sp, dp, _ := ports(old.protocol, old.upper)
	owner := func(list []*mapping.Mapping, port uint16) *mapping.Mapping {
		if !shared(list) || old.later() {
			return nil
		}
		return ownerOf(list, port)
	}
	d.src, why = c.to6(old.src, owner(c.t.covering4(old.src), sp), translator.UntranslatableSource)
	if why != ok {
		c.fault(why)
	}
	if c.hairpin {
		// The workload that is told has sent to the prefix, not to the mapping.
		d.dst, why = c.byPrefix(old.dst, translator.UntranslatableDestination)
	} else {
		d.dst, why = c.to6(old.dst, owner(c.t.covering4(old.dst), dp), translator.UntranslatableDestination)
	}
	if why != ok {
		c.fault(why)
	}
	if len(c.faults) > 0 {
		return nil
	}
	changed := append([]byte(nil), old.upper...)
	if old.isICMP() {
		d.protocol, changed = icmp6, retype(icmp6, changed)
	}
	carry(old, d, changed, false)
	return write6(d)
}

// quotable refuses what is quoted but cannot be translated.
func (c *call) quotable(d *datagram) bool {
	switch {
	case d.isICMP() && d.fragmented():
		c.rule("6.quote-icmp-fragment")
		c.fault(translator.ICMPFragment)
	case d.isICMP() && len(d.upper) > 0 && isError(d.protocol, d.upper[0]):
		c.rule("6.quote-error")
		c.fault(translator.ICMPErrorInError)
	case d.isICMP() && len(d.upper) > 0 && !isEcho(d.protocol, d.upper[0]):
		c.rule("6.quote-untranslatable")
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

// quote6 translates the packet that an ICMPv6 error quotes: one that came to a
// workload 4→6. m is the mapping of the error's own source.
func (c *call) quote6(b []byte, m *mapping.Mapping) []byte {
	old, why := read6(b, true)
	if why != ok {
		c.rule("6.quote-malformed")
		c.fault(why)
		return nil
	}
	if old.behind {
		c.fault(translator.HeaderBehindFragment)
	}
	if old.segmentsLeft != 0 {
		c.fault(translator.RoutingHeader)
	}
	if !c.quotable(old) {
		return nil
	}
	c.quoteRules(old)
	c.enforceQuote(old, m)
	d := &datagram{tos: old.tos, ttl: old.ttl, protocol: old.protocol, claimed: old.claimed}
	if c.t.ZeroTrafficClass {
		d.tos = 0
	}
	d.src, _, why = c.to4(old.src, translator.UntranslatableSource)
	if why != ok {
		c.fault(why)
	}
	d.dst, _, why = c.to4(old.dst, translator.UntranslatableDestination)
	if why != ok {
		c.fault(why)
	}
	if len(c.faults) > 0 {
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
	changed := append([]byte(nil), old.upper...)
	if old.isICMP() {
		d.protocol, changed = icmp4, retype(icmp4, changed)
	}
	carry(old, d, changed, false)
	return write4(d)
}

// enforceQuote: an error from a workload that shares an address is about a
// packet to one of its ports (1.3).
func (c *call) enforceQuote(d *datagram, m *mapping.Mapping) {
	if m == nil || len(m.Ports) == 0 {
		return
	}
	if !shareable(d.protocol) {
		c.rule("1.3.no-ports")
		c.fault(translator.ProtocolNotShareable)
		return
	}
	_, dp, has := ports(d.protocol, d.upper)
	switch {
	case d.later() || !has:
		c.open(translator.PortOutsideSet)
	case !owns(m, dp):
		c.rule("1.3.quoted-outside")
		c.fault(translator.PortOutsideSet)
	default:
		c.rule("1.3.quoted-destination-port")
	}
}
