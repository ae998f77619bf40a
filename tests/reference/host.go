package reference

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// forWorkload says that an IPv4 packet to a shared address is for a workload: the
// port that decides is known, and somebody's.
func (c *call) forWorkload(d *datagram) bool {
	list := c.t.covering4(d.dst)
	if !shared(list) {
		return false
	}
	port, known := c.deciding(d)
	return known && ownerOf(list, port) != nil
}

// deciding is the port that decides which workload an IPv4 packet is for.
func (c *call) deciding(d *datagram) (port uint16, known bool) {
	if d.later() {
		if e := c.t.tracker[keyOf(d)]; e != nil && e.owner != nil && c.t.now <= e.since+trackFor {
			for r := range e.owner.Ports.Runs() {
				return r.First, true // any of the owner's
			}
		}
		return 0, false
	}
	if d.isICMP() && len(d.upper) >= 8 && isError(icmp4, d.upper[0]) {
		m := readMessage(d.upper, lengthAt4, 4)
		q, why := read4(m.quote, true)
		if why != ok || q.later() {
			return 0, false
		}
		port, _, known = portsOf(q.protocol, q.upper)
		return port, known
	}
	_, port, known = portsOf(d.protocol, d.upper)
	return port, known
}

// hosts drops, in silence, what is for the host alone, with whom workloads share
// an address (1.3.host).
func (c *call) hosts(d *datagram) bool {
	if c.hairpin || d.dst != c.t.Host4 || c.forWorkload(d) {
		return false
	}
	if len(c.t.covering4(d.dst)) > 0 && (d.later() || d.frag == nil && (d.protocol == tcp || d.protocol == udp)) {
		return false
	}
	c.rule("1.3.host")
	c.fault(translator.PortUnassigned)
	return true
}

// staysOut says that a packet translated to IPv4 goes no way back to IPv6 although
// its destination is covered by a mapping: it is for the translator itself, or for
// the host.
func (c *call) staysOut(p Packet, dst netip.Addr) (v translator.Verdict, yes bool) {
	if dst != c.t.IPv4 && dst != c.t.Host4 {
		return 0, false
	}
	d, _ := read4(p.Bytes, false)
	mine := c.forWorkload(d)
	switch {
	case dst == c.t.IPv4:
		return translator.Local, !mine
	case d.isICMP() && !d.later() && d.upper[0] == 8:
		mine = false // the host answers pings
	}
	return translator.Forward4, !mine
}

// clientSource is the source of what a workload sends that speaks IPv4 (RFC 6877).
// Where workloads share the address, it has to be known which of them it is.
func (c *call) clientSource(d *datagram) (netip.Addr, translator.Verdict) {
	list := c.t.covering4(d.src)
	if c.t.half && len(list) == 0 {
		c.rule("1.10.source")
		return netip.Addr{}, translator.UntranslatableSource
	}
	if !shared(list) {
		return c.address6(d.src, nil, translator.UntranslatableSource)
	}
	c.rule("1.5.source-port")
	port, _, known := portsOf(d.protocol, d.upper)
	if d.isICMP() && !d.fragmented() && len(d.upper) > 8 && isError(icmp4, d.upper[0]) {
		q, why := read4(readMessage(d.upper, lengthAt4, 4).quote, true)
		if known = why == ok && !q.later(); known {
			_, port, known = portsOf(q.protocol, q.upper)
		}
	}
	var owner *mapping.Mapping
	if known && !d.later() {
		owner = ownerOf(list, port)
	}
	if d.fragmented() {
		owner = c.sentFragment(d, owner)
	}
	if owner == nil {
		c.rule("1.5.outside")
		return netip.Addr{}, translator.PortOutsideSet
	}
	return c.address6(d.src, owner, translator.UntranslatableSource)
}

// sentFragment is the workload that a fragment comes from: its first one tells.
func (c *call) sentFragment(d *datagram, owner *mapping.Mapping) *mapping.Mapping {
	c.rule("1.5.fragments")
	key := keyOf(d)
	key.sent = true
	malformed := slices.ContainsFunc(c.faults, func(o Outcome) bool { return o.Verdict == translator.Malformed })
	switch e := c.entry(key); {
	case d.later():
		return e.owner
	case owner != nil && !malformed:
		e.owner = owner
	}
	return owner
}

// covered says that an IPv4 address is that of workloads, or of the one that owns
// the port where they share it with the host.
func (t *Translator) covered(a netip.Addr, port uint16, known bool) bool {
	list := t.covering4(a)
	if a == t.Host4 {
		return shared(list) && known && ownerOf(list, port) != nil
	}
	return t.workload4(a)
}
