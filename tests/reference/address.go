package reference

import (
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var (
	wellKnown = netip.MustParsePrefix("64:ff9b::/96")

	reserved4 = prefixes("240.0.0.0/4")
	never4    = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
	never6    = prefixes("::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")

	// nonGlobal is what the IANA registry of special-purpose IPv4 addresses
	// (RFC 6890) lists as not globally reachable. The list is the reference's own;
	// TestSpecial holds it against the table that the fast translator uses.
	nonGlobal = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
		"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4")

	// anycast is what in 192.0.0.0/24 is globally reachable all the same.
	anycast = prefixes("192.0.0.9/32", "192.0.0.10/32")
)

func isNonGlobal(a netip.Addr) bool { return within(a, nonGlobal) && !within(a, anycast) }

func within(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// octets says where the four IPv4 octets go, by prefix length (RFC 6052 2.2).
var octets = map[int][4]int{
	32: {4, 5, 6, 7},
	40: {5, 6, 7, 9},
	48: {6, 7, 9, 10},
	56: {7, 9, 10, 11},
	64: {9, 10, 11, 12},
	96: {12, 13, 14, 15},
}

// Embed puts an IPv4 address into a prefix of RFC 6052.
func Embed(prefix netip.Prefix, a netip.Addr) netip.Addr {
	out, four := prefix.Masked().Addr().As16(), a.As4()
	for i, at := range octets[prefix.Bits()] {
		out[at] = four[i]
	}
	return netip.AddrFrom16(out)
}

// Extract takes the IPv4 address out of an address under the prefix.
func Extract(prefix netip.Prefix, a netip.Addr) netip.Addr {
	in := a.As16()
	var four [4]byte
	for i, at := range octets[prefix.Bits()] {
		four[i] = in[at]
	}
	return netip.AddrFrom4(four)
}

// moveSuffix puts the suffix of a behind the prefix from into the prefix to:
// the bits that both have, then zeros (RFC 7757 3.3).
func moveSuffix(a netip.Addr, from, to netip.Prefix) netip.Addr {
	if from.IsSingleIP() && to.IsSingleIP() {
		return to.Addr()
	}
	in, out := a.AsSlice(), to.Masked().Addr().AsSlice()
	for i, j := from.Bits(), to.Bits(); i < len(in)*8 && j < len(out)*8; i, j = i+1, j+1 {
		bit := in[i/8] >> (7 - i%8) & 1 // the highest is the first
		out[j/8] |= bit << (7 - j%8)
	}
	addr, _ := netip.AddrFromSlice(out)
	return addr
}

// covering6 is the mapping with the longest IPv6 prefix around a.
func (t *Translator) covering6(a netip.Addr) *mapping.Mapping {
	var best *mapping.Mapping
	for i := range t.Mappings {
		m := &t.Mappings[i]
		if m.IPv6.Contains(a) && (best == nil || m.IPv6.Bits() > best.IPv6.Bits()) {
			best = m
		}
	}
	if best == nil {
		return t.ce6(a)
	}
	return best
}

// covering4 gives the mappings with the longest IPv4 prefix around a: several
// when they share it.
func (t *Translator) covering4(a netip.Addr) []*mapping.Mapping {
	best := -1
	for i := range t.Mappings {
		m := &t.Mappings[i]
		if m.IPv4.Contains(a) && (best < 0 || m.IPv4.Bits() > t.Mappings[best].IPv4.Bits()) {
			best = i
		}
	}
	if best < 0 {
		return t.ces4(a)
	}
	return t.alike[best]
}

func shared(list []*mapping.Mapping) bool { return len(list) > 0 && !list[0].Ports.IsZero() }

func owns(m *mapping.Mapping, port uint16) bool {
	if m.Ports.IsZero() {
		return true
	}
	for r := range m.Ports.Runs() {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// ok is the verdict of an address that translates.
const ok = translator.Forward4

// address4 translates an IPv6 address: never, by mapping, by prefix, or not at all
// (not is the verdict then).
func (c *call) address4(a netip.Addr, not translator.Verdict) (netip.Addr, *mapping.Mapping, translator.Verdict) {
	if within(a, never6) {
		c.rule("1.1.never6")
		return netip.Addr{}, nil, translator.NeverTranslated
	}
	if a == c.t.IPv6 && c.reads(ownSource) {
		return c.t.IPv4, nil, ok
	}
	if m := c.t.covering6(a); m != nil {
		c.rule("1.2.longest-prefix", "1.2.order")
		c.ruleOf(m)
		if m.IPv4.Bits() != 32 {
			c.rule("1.2.suffix")
		}
		v4 := moveSuffix(a, m.IPv6, m.IPv4)
		if within(v4, never4) {
			return netip.Addr{}, nil, translator.NeverTranslated
		}
		return v4, m, ok
	}
	if c.t.Prefix.IsValid() && c.t.Prefix.Contains(a) {
		c.rule(prefixRule(c.t.Prefix), "1.2.order")
		v4 := Extract(c.t.Prefix, a)
		if why := c.underPrefix(v4); why != ok {
			return netip.Addr{}, nil, why
		}
		return v4, nil, ok
	}
	return netip.Addr{}, nil, not
}

var prefixRules = map[int]string{32: "1.1.32", 40: "1.1.40", 48: "1.1.48", 56: "1.1.56", 64: "1.1.64", 96: "1.1.96"}

func prefixRule(p netip.Prefix) string { return prefixRules[p.Bits()] }

// underPrefix reports whether v4 may stand under the prefix.
func (c *call) underPrefix(v4 netip.Addr) translator.Verdict {
	switch {
	case within(v4, never4):
		c.rule("1.1.never4")
		return translator.NeverTranslated
	case (c.t.Prefix == wellKnown || c.t.Edge.Prefix == wellKnown) && isNonGlobal(v4):
		if c.t.Prefix != wellKnown {
			c.rule("1.10.non-global")
		}
		if c.t.AllowNonGlobal {
			c.rule("1.1.non-global-knob")
			return ok
		}
		c.rule("1.1.non-global")
		return translator.NonGlobal
	}
	return ok
}

// byPrefix translates an IPv4 address by the prefix alone.
func (c *call) byPrefix(a netip.Addr, not translator.Verdict) (netip.Addr, translator.Verdict) {
	if within(a, never4) {
		c.rule("1.1.never4")
		return netip.Addr{}, translator.NeverTranslated
	}
	if !c.t.Prefix.IsValid() {
		return netip.Addr{}, not
	}
	if why := c.underPrefix(a); why != ok {
		return netip.Addr{}, why
	}
	c.rule(prefixRule(c.t.Prefix))
	return Embed(c.t.Prefix, a), ok
}

// destination4 is to4 for where packets go to: an address of ours that nobody has
// is no place.
func (c *call) destination4(a netip.Addr) (netip.Addr, translator.Verdict) {
	v4, _, why := c.address4(a, translator.UntranslatableDestination)
	if why == translator.NeverTranslated {
		return v4, why
	}
	if c.t.ours(a) || why == ok && v4 != c.t.IPv4 && c.nobodys(v4) {
		c.rule("1.1.ours-nobody6")
		return netip.Addr{}, translator.UntranslatableDestination
	}
	return v4, why
}

// workload6 is to6 for what a workload has, or has sent from: what nobody has is
// not looked for under the prefix.
func (c *call) workload6(a netip.Addr, owner *mapping.Mapping, not translator.Verdict) (netip.Addr, translator.Verdict) {
	if owner == nil && c.nobodys(a) {
		c.rule("1.1.ours-nobody4")
		return netip.Addr{}, not
	}
	to, why := c.address6(a, owner, not)
	if why == ok && c.t.ours(to) {
		return netip.Addr{}, not
	}
	return to, why
}

// address6 translates an IPv4 address by a mapping of its own, or by the prefix.
// For an address that mappings share, owner is the one that ports decided for.
func (c *call) address6(a netip.Addr, owner *mapping.Mapping, not translator.Verdict) (netip.Addr, translator.Verdict) {
	if within(a, never4) {
		c.rule("1.1.never4")
		return netip.Addr{}, translator.NeverTranslated
	}
	list := c.t.covering4(a)
	if len(list) > 0 && !shared(list) {
		owner = list[0]
	}
	if owner == nil {
		c.rule("1.2.order")
		return c.byPrefix(a, not)
	}
	c.rule("1.2.longest-prefix", "1.2.order")
	c.ruleOf(owner)
	if owner.IPv4.Bits() != 32 {
		c.rule("1.2.suffix")
	}
	return moveSuffix(a, owner.IPv4, owner.IPv6), ok
}
