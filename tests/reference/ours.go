package reference

import (
	"net/netip"

	"github.com/natless/natless/translator"
)

// ours says that a is an address of the translator's own, of a source pool or of
// a pool of workloads (1.1).
func (t *Translator) ours(a netip.Addr) bool {
	if a == t.IPv4 || a == t.IPv6 {
		return true
	}
	for _, r := range t.Config.Rules.All() {
		if r.IPv4.Contains(a) { // 1.8.ours
			return true
		}
	}
	for _, b := range t.Edge.Blocks {
		if b.IPv4.Contains(a) {
			t.count("1.10.ours")
			return true
		}
	}
	return t.ICMPSource4.Contains(a) || t.ICMPSource6.Contains(a) || within(a, t.Pools4)
}

// workload4 says that an IPv4 address is that of a workload, or of several. When
// there is no prefix, hosts of the IPv4 side have mappings, too.
func (t *Translator) workload4(a netip.Addr) bool {
	list := t.covering4(a)
	return len(list) > 0 && (t.Prefix.IsValid() || shared(list) || list[0].Inside)
}

// spoofed drops a packet that comes from an address of ours.
func (c *call) spoofed(d *datagram) bool {
	if c.hairpin || c.t.Client {
		return false
	}
	rule, yes := "1.1.ours-source4", c.t.ours(d.src) && d.src != c.t.Host4
	if d.src.Is4() {
		port, _, known := portsOf(d.protocol, d.upper)
		yes = yes || c.t.covered(d.src, port, known && !d.later() && !d.isICMP())
	} else {
		rule = "1.1.ours-source6"
		if p := c.t.Prefix; p.IsValid() && p.Contains(d.src) && c.t.covering6(d.src) == nil {
			v4 := Extract(p, d.src)
			yes = yes || c.t.ours(v4) || v4 == c.t.Host4 || c.t.workload4(v4)
		}
	}
	if yes {
		c.rule(rule)
		c.fault(translator.SpoofedSource)
	}
	return yes
}

// nobodys says that a packet to the IPv4 address a would come straight back.
func (c *call) nobodys(a netip.Addr) bool {
	return c.t.ours(a) && len(c.t.covering4(a)) == 0 && a != c.t.Host4
}

// carried refuses protocols that the other family cannot carry.
func (c *call) carried(d *datagram, say func(v translator.Verdict)) {
	switch d.protocol {
	case 51, 135, 139, 140:
		if d.src.Is4() {
			c.rule("2.untranslatable-protocol")
		} else {
			c.rule("3.untranslatable-protocol")
		}
		say(translator.ProtocolUntranslatable)
	}
}
