package reference

import (
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// to6 translates 4→6 (sections 2 and 6).
func (c *call) to6() {
	d, why := read4(c.in.Bytes, false)
	if why != ok {
		if why == translator.BadChecksum {
			c.rule("4.ipv4-header")
		} else {
			c.rule("7.malformed")
		}
		c.fault(why)
		return
	}
	if d.beyond() {
		c.rule("7.malformed")
		c.fault(translator.Malformed)
		return
	}
	if c.spoofed(d) {
		return
	}
	if d.total < len(c.in.Bytes) {
		c.rule("7.trailing")
	}
	c.allowed = answerable(d)
	c.subject = d
	if d.dst == c.t.IPv4 && !c.hairpin && !c.forWorkload(d) {
		c.forUs()
		return
	}
	if c.hosts(d) {
		return
	}
	if c.inside(d) {
		return
	}
	c.silent = d.isICMP() && (len(d.upper) == 0 || !isEcho(d.protocol, d.upper[0]))
	c.options(d)
	if d.ttl <= 1 && !c.hairpin {
		c.rule("2.hop-limit-out")
		c.faultReply(translator.HopLimitExceeded, 11, 0, 0)
	}
	if c.oddOffload(d) {
		c.rule("5.mismatch")
		c.fault(translator.Malformed)
	}
	readable := c.readable(d, "2.icmp-fragment")
	if readable && d.isICMP() && isError(icmp4, d.upper[0]) {
		c.errorTo6(d)
		return
	}
	c.informational(d, readable)
	owner := c.ownerTo6(d, readable)
	src, dst := c.addressesTo6(d, owner)
	if readable && !c.waits {
		c.zeroChecksum(d)
		c.policeTo6(d, owner)
		c.packetTo6(d, src, dst, owner)
	}
	c.hold(d)
}

// policeTo6 holds a packet to the policies of whom it is for.
func (c *call) policeTo6(d *datagram, owner *mapping.Mapping) {
	if list := c.t.covering4(d.dst); len(list) > 0 && !shared(list) {
		owner = list[0]
	}
	if !d.isICMP() || isEcho(d.protocol, d.upper[0]) {
		c.police(d, owner, false, d.src)
	}
}

// readable reports whether there is an upper-layer header, or the rest of a
// datagram, that can be translated.
func (c *call) readable(d *datagram, icmpFragment string) bool {
	if d.isICMP() && d.fragmented() {
		c.rule(icmpFragment)
		c.fault(translator.ICMPFragment)
		if _, fits := headerLength(d.protocol, d.upper); !fits {
			c.open(translator.Malformed)
		}
		return false
	}
	if d.later() {
		return !d.behind
	}
	if _, fits := headerLength(d.protocol, d.upper); !fits || badUDPLength(d) {
		c.rule("7.upper-header")
		c.fault(translator.Malformed)
		return false
	}
	return !d.behind
}

// foreign: the ICMP of the other family would be taken for the real one behind us.
func (c *call) foreign(d *datagram) {
	if !d.isICMP() && (d.protocol == icmp4 || d.protocol == icmp6) {
		c.rule("6.foreign")
		c.fault(translator.ICMPUntranslatable)
	}
	if c.in.Bytes[0]>>4 == 4 && (d.protocol == 0 || d.protocol == 43 || d.protocol == 44 || d.protocol == 60) {
		c.rule("2.extension-protocol")
		c.fault(translator.Malformed)
	}
}

// informational drops ICMP that is neither echo nor error (section 6).
func (c *call) informational(d *datagram, readable bool) {
	if readable && d.isICMP() && !isEcho(d.protocol, d.upper[0]) {
		c.rule("6.informational-other")
		c.fault(translator.ICMPUntranslatable)
	}
	c.foreign(d)
	c.carried(d, func(v translator.Verdict) {
		if d.src.Is4() {
			c.faultReply(v, 3, 13, 0)
		} else {
			c.faultReply(v, 1, 1, 0)
		}
	})
	if readable && d.isICMP() && d.upper[1] != 0 {
		c.open(translator.ICMPUntranslatable) // echo with a code
	}
}

func (c *call) options(d *datagram) {
	if d.upperAt > 20 {
		c.rule("2.options-dropped")
	}
	if d.upperAt > 20 && hasRoute(c.in.Bytes[20:d.upperAt]) && !d.route && !d.badOption {
		c.rule("2.source-route-expired")
	}
	if d.badOption {
		c.rule("2.options-malformed")
		c.fault(translator.Malformed)
	}
	if d.route {
		c.rule("2.source-route")
		c.faultReply(translator.SourceRoute, 3, 5, 0)
	}
}

// badUDPLength: a UDP length that is longer than what carries it, or shorter
// than its own header. A first fragment is shorter by nature.
func badUDPLength(d *datagram) bool {
	if d.protocol != udp {
		return false
	}
	length := int(d.upper[4])<<8 | int(d.upper[5])
	return length < 8 || length > d.claimed && !d.fragmented()
}

// nowhere stands for an address that does not translate: the packet has its
// fault already, and is looked at for further ones alone.
var nowhere = netip.IPv6Unspecified()

// addressesTo6 translates both addresses of a packet that is not an ICMP error.
func (c *call) addressesTo6(d *datagram, owner *mapping.Mapping) (src, dst netip.Addr) {
	src, why := c.sourceTo6(d)
	if why == translator.NeverTranslated {
		c.fault(why)
	} else if why != ok {
		c.rule("2.untranslatable-source")
		c.faultReply(why, 3, 13, 0)
	}
	if why != ok {
		src = nowhere
	}
	if owner == nil && shared(c.t.covering4(d.dst)) {
		return src, nowhere
	}
	dst, why = c.workload6(d.dst, owner, translator.UntranslatableDestination)
	if why != ok {
		c.faultMay(why, 3, 1, 0) // RFC 1812 5.2.7.1 lets a router tell
		dst = nowhere
	}
	return src, dst
}

// sourceTo6 translates the source: by the prefix, since no source from the IPv4 side
// has a mapping; in a hairpin, too (1.4), for else it would be what it was.
func (c *call) sourceTo6(d *datagram) (netip.Addr, translator.Verdict) {
	if c.t.Prefix.IsValid() && !c.t.Client {
		if c.hairpin {
			c.rule("1.4.source")
		}
		return c.byPrefix(d.src, translator.UntranslatableSource)
	}
	if c.t.Client {
		return c.clientSource(d)
	}
	if c.hairpin {
		// Without a prefix, the rules name no source.
		c.open(translator.UntranslatableSource)
		c.open(translator.UntranslatableSource | translator.Replied)
	}
	list := c.t.covering4(d.src)
	if !shared(list) {
		return c.address6(d.src, nil, translator.UntranslatableSource)
	}
	port, _, has := portsOf(d.protocol, d.upper)
	if d.isICMP() && len(d.upper) > 8 && isError(d.protocol, d.upper[0]) {
		q, why := read4(d.upper[8:], true)
		if has = why == ok && !q.later(); has {
			_, port, has = portsOf(q.protocol, q.upper)
		}
	}
	var owner *mapping.Mapping
	if has && !d.later() {
		owner = ownerOf(list, port)
	}
	return c.address6(d.src, owner, translator.UntranslatableSource)
}

func ownerOf(list []*mapping.Mapping, port uint16) *mapping.Mapping {
	for _, m := range list {
		if owns(m, port) {
			return m
		}
	}
	return nil
}

// zeroChecksum applies udp_zero_checksum (section 4).
func (c *call) zeroChecksum(d *datagram) {
	if d.protocol != udp || d.later() || d.upper[6] != 0 || d.upper[7] != 0 {
		return
	}
	if c.partial(d) {
		c.rule("5.flag-before-zero")
		return
	}
	how := c.t.UDPZeroChecksum
	if d.frag != nil && how == translator.CalculateZeroChecksum {
		c.rule("4.zero-fragment")
		how = translator.RejectZeroChecksum
	}
	switch how {
	case translator.RejectZeroChecksum:
		c.rule("4.zero-reject")
		c.faultReply(translator.UDPZeroChecksumRefused, 3, 13, 0)
	case translator.DropZeroChecksum:
		c.rule("4.zero-drop")
		c.fault(translator.UDPZeroChecksumRefused)
	case translator.ForwardZeroChecksum:
		c.rule("4.zero-forward")
	}
}

// packetTo6 checks lengths and writes what is not an ICMP error.
func (c *call) packetTo6(old *datagram, src, dst netip.Addr, owner *mapping.Mapping) {
	if owner != nil && old.frag != nil && !old.later() && len(c.faults) == 0 {
		c.track(old, owner)
	}
	d := &datagram{src: src, dst: dst, tos: old.tos, ttl: old.ttl - 1, protocol: old.protocol,
		claimed: old.claimed, df: old.df, id: old.id, frag: old.frag}
	c.rule("2.traffic-class", "2.flow-label", "2.payload-length", "2.hop-limit", "2.addresses", "2.next-header")
	if c.t.ZeroTrafficClass {
		c.rule("2.traffic-class-knob")
		d.tos = 0
	}
	if c.hairpin {
		c.rule("1.4.one-decrement")
		d.ttl = old.ttl
	}
	changed := c.t.copied(old.upper)
	if old.isICMP() {
		d.protocol = icmp6
		retype(icmp6, changed)
		c.rule("6.echo", "2.next-header-icmp")
		changed = c.unfold(old, changed, owner)
		d.claimed = len(changed)
	}
	partial := c.partial(old)
	carry(old, d, changed, partial)
	c.upperRules(old, partial)
	if c.t.UDPZeroChecksum == translator.CalculateZeroChecksum && old.protocol == udp && !partial &&
		old.frag == nil && d.upper[6] == 0 && d.upper[7] == 0 {
		c.rule("4.zero-calculate")
		if c.gso() {
			c.leave(d)
		} else {
			calculate(d)
		}
	}
	at := 40
	if d.frag != nil {
		c.rule("2.fragment")
		if len(d.upper)%8 != 0 {
			c.rule("2.fragment-length")
		}
		at = 48
	}
	c.lengthTo6(old, d, at, partial)
}

// lengthTo6 is the rules about lengths of section 2.
func (c *call) lengthTo6(old, d *datagram, at int, partial bool) {
	segment := at + c.segment(old) + d.claimed - old.claimed
	verdict := translator.Forward6
	if c.hairpin {
		verdict = translator.Hairpin
	}
	switch {
	case d.df && segment > c.t.MTU6:
		mtu := c.t.MTU6 - 20
		c.rule("2.too-big")
		if d.frag != nil {
			c.rule("2.too-big-fragment")
			mtu = c.t.MTU6 - 28
		}
		if c.gso() {
			c.rule("5.segment-size")
		}
		c.faultReply(translator.TooBig, 3, 4, uint32(mtu))
		return
	case !d.df && segment > c.t.LowestMTU6:
		c.rule("2.fragmented")
		if c.gso() {
			c.forward(translator.Segment, Packet{Bytes: c.in.Bytes[:old.total], Offload: c.in.Offload})
			return
		}
		if partial {
			c.rule("5.finish")
			finish(d)
		}
		c.forward(verdict, c.fragments6(d, c.t.LowestMTU6)...)
		return
	}
	c.rule("2.no-atomic")
	out := Packet{Bytes: c.write6(d), Offload: c.offload(old, d, at)}
	c.forward(verdict, out)
}

var checksumRule = map[byte]string{tcp: "4.tcp", udp: "4.udp", udpLite: "4.udp-lite", dccp: "4.dccp",
	sctp: "4.sctp", icmp4: "4.icmp", icmp6: "4.icmp"}

func (c *call) upperRules(d *datagram, partial bool) {
	if n := checksumRule[d.protocol]; n != "" {
		c.rule(n)
	} else {
		c.rule("4.other")
	}
	if partial {
		c.rule("5.partial")
	}
	if c.gso() {
		c.rule("5.whole")
	}
}
