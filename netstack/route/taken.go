package route

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Taken is the addresses that nobody but their holders on this host's links can
// have, and why: the host's own, gateways, far ends of links, and the network and
// broadcast addresses of the subnets that the host is in. Where a pool or a
// mapping covers one of these, nobody is given it, and ARP for it is not answered.
// A subnet that is not on a link is not a subnet of the host's: routed here whole,
// all its addresses are good. So are both of a /31 (RFC 3021).
type Taken map[netip.Addr]string

// linkAddr is an address of an interface.
type linkAddr struct {
	iface     string
	local     netip.Addr
	peer      netip.Addr   // of a link with two ends; invalid: none
	subnet    netip.Prefix // on the link
	broadcast netip.Addr   // invalid: none
}

// gateway is a next hop of a route.
type gateway struct {
	addr  netip.Addr
	iface string
}

const hostsOwn = "the host's own"

// takenBy is what addresses and gateways take. Of two reasons the first counts.
func takenBy(addrs []linkAddr, gateways []gateway) Taken {
	t := Taken{}
	take := func(a netip.Addr, format string, args ...any) {
		if a.IsValid() && !a.IsUnspecified() && t[a] == "" {
			t[a] = fmt.Sprintf(format, args...)
		}
	}
	for _, a := range addrs {
		take(a.local, hostsOwn+" on %s", a.iface)
	}
	for _, g := range gateways {
		take(g.addr, "a gateway on %s", g.iface)
	}
	for _, a := range addrs {
		take(a.peer, "the other end of %s", a.iface)
	}
	for _, a := range addrs {
		if s := a.subnet; s.IsValid() && s.Addr().Is4() && s.Bits() < 31 {
			take(s.Masked().Addr(), "the network address of %s on %s", s.Masked(), a.iface)
			take(broadcastOf(s), "the broadcast address of %s on %s", s.Masked(), a.iface)
		}
		take(a.broadcast, "the broadcast address of %s", a.iface)
	}
	return t
}

// broadcastOf is the last address of an IPv4 prefix.
func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// Within gives those in one of the prefixes, sorted.
func (t Taken) Within(prefixes ...netip.Prefix) []netip.Addr {
	var in []netip.Addr
	for a := range t {
		if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			in = append(in, a)
		}
	}
	slices.SortFunc(in, netip.Addr.Compare)
	return in
}

// Without leaves out of IPv4 prefixes what others hold.
func (t Taken) Without(prefixes []netip.Prefix) (left []netip.Prefix) {
	holes := t.Within(prefixes...)
	for _, p := range prefixes {
		left = append(left, without(p, holes)...)
	}
	return left
}

// maxTakenWords bounds what is said of many at once.
const maxTakenWords = 8

// Words says which they are and why.
func (t Taken) Words(addrs []netip.Addr) string {
	words := make([]string, 0, maxTakenWords)
	for _, a := range addrs[:min(len(addrs), maxTakenWords)] {
		words = append(words, fmt.Sprintf("%v is %s", a, t[a]))
	}
	if n := len(addrs) - len(words); n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(words, ", ")
}

// warnTaken says what of the desired state others hold.
func warnTaken(d Desired, t Taken) []string {
	var warnings []string
	for _, a := range []netip.Addr{d.IPv4, d.IPv6} {
		if why := t[a]; why != "" {
			warnings = append(warnings, fmt.Sprintf("the translator's own address %v is %s: it needs one that nobody else has", a, why))
		}
	}
	if in := t.Within(d.Mapped4...); in != nil {
		hint := ""
		if slices.ContainsFunc(in, func(a netip.Addr) bool { return strings.HasPrefix(t[a], hostsOwn) }) {
			hint = " (a pool of the host's own address says ipv4: uplink)"
		}
		warnings = append(warnings, fmt.Sprintf("pools or mappings cover what others hold, which is given to nobody and not "+
			"answered for: %s%s", t.Words(in), hint))
	}
	return warnings
}

// without gives the prefixes that hold all of p but some addresses.
func without(p netip.Prefix, holes []netip.Addr) []netip.Prefix {
	if !slices.ContainsFunc(holes, p.Contains) {
		return []netip.Prefix{p}
	}
	if p.IsSingleIP() {
		return nil
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	b := p.Addr().As4()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	high := netip.PrefixFrom(netip.AddrFrom4(b), p.Bits()+1)
	return append(without(low, holes), without(high, holes)...)
}

// heldBy is the IPv4 addresses of gateways and far ends, which the host itself
// must go on reaching where they are. What is its own, and broadcasts, the
// kernel's local table keeps.
func heldBy(addrs []linkAddr, gateways []gateway) []netip.Addr {
	held := map[netip.Addr]bool{}
	for _, g := range gateways {
		held[g.addr] = true
	}
	for _, a := range addrs {
		if a.peer.IsValid() {
			held[a.peer] = true
		}
	}
	maps.DeleteFunc(held, func(a netip.Addr, _ bool) bool { return !a.Is4() })
	for _, a := range addrs {
		delete(held, a.local)
	}
	return slices.SortedFunc(maps.Keys(held), netip.Addr.Compare)
}
