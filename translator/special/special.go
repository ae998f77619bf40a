// Package special is the one table of special-purpose addresses: the entries of
// IANA's registries (RFC 6890), and what translation makes of each. All that the
// program knows about such addresses stands here; no other list of them may be.
package special

import "net/netip"

// Entry is a block of special-purpose addresses.
type Entry struct {
	Prefix netip.Prefix
	Name   string // as IANA has it
	RFC    string // of the entry
	Global bool   // globally reachable, by the most specific entry around an address

	// Never is that no address of the block is translated in any mode: it means
	// "here", "nobody" or "many", and cannot stand for one host elsewhere.
	Never bool
}

func entry(prefix, name, rfc string, global bool) Entry {
	return Entry{Prefix: netip.MustParsePrefix(prefix), Name: name, RFC: rfc, Global: global}
}

func never(prefix, name, rfc string) Entry {
	return Entry{Prefix: netip.MustParsePrefix(prefix), Name: name, RFC: rfc, Never: true}
}

// Registry is IANA's IPv4 and IPv6 Special-Purpose Address Registries, and
// multicast, which has registries of its own. Where IANA says neither yes nor no
// (6to4 and Teredo, which hold the addresses of others), an address counts as
// global: the address inside is judged where it matters. Treat it as read-only.
var Registry = []Entry{ // rule 1.1.special
	never("0.0.0.0/8", "This network", "RFC 791 3.2"),
	entry("10.0.0.0/8", "Private-Use", "RFC 1918", false),
	entry("100.64.0.0/10", "Shared Address Space", "RFC 6598", false),
	never("127.0.0.0/8", "Loopback", "RFC 1122 3.2.1.3"),
	never("169.254.0.0/16", "Link Local", "RFC 3927"),
	entry("172.16.0.0/12", "Private-Use", "RFC 1918", false),
	entry("192.0.0.0/24", "IETF Protocol Assignments", "RFC 6890 2.1", false),
	entry("192.0.0.0/29", "IPv4 Service Continuity Prefix", "RFC 7335", false),
	entry("192.0.0.8/32", "IPv4 dummy address", "RFC 7600", false),
	entry("192.0.0.9/32", "Port Control Protocol Anycast", "RFC 7723", true),
	entry("192.0.0.10/32", "Traversal Using Relays around NAT Anycast", "RFC 8155", true),
	entry("192.0.0.170/31", "NAT64/DNS64 Discovery", "RFC 8880, RFC 7050 2.2", false),
	entry("192.0.2.0/24", "Documentation (TEST-NET-1)", "RFC 5737", false),
	entry("192.31.196.0/24", "AS112-v4", "RFC 7535", true),
	entry("192.52.193.0/24", "AMT", "RFC 7450", true),
	entry("192.88.99.0/24", "Deprecated (6to4 Relay Anycast)", "RFC 7526", true),
	entry("192.168.0.0/16", "Private-Use", "RFC 1918", false),
	entry("192.175.48.0/24", "Direct Delegation AS112 Service", "RFC 7534", true),
	entry("198.18.0.0/15", "Benchmarking", "RFC 2544", false),
	entry("198.51.100.0/24", "Documentation (TEST-NET-2)", "RFC 5737", false),
	entry("203.0.113.0/24", "Documentation (TEST-NET-3)", "RFC 5737", false),
	never("224.0.0.0/4", "Multicast", "RFC 5771"),
	never("240.0.0.0/4", "Reserved", "RFC 1112 4"),
	never("255.255.255.255/32", "Limited Broadcast", "RFC 8190, RFC 919 7"),

	never("::/128", "Unspecified Address", "RFC 4291"),
	never("::1/128", "Loopback Address", "RFC 4291"),
	never("::ffff:0:0/96", "IPv4-mapped Address", "RFC 4291"),
	entry("64:ff9b::/96", "IPv4-IPv6 Translat.", "RFC 6052", true),
	entry("64:ff9b:1::/48", "IPv4-IPv6 Translat.", "RFC 8215", false),
	entry("100::/64", "Discard-Only Address Block", "RFC 6666", false),
	entry("100:0:0:1::/64", "Dummy IPv6 Prefix", "RFC 9780", false),
	entry("2001::/23", "IETF Protocol Assignments", "RFC 2928", false),
	entry("2001::/32", "TEREDO", "RFC 4380", true),
	entry("2001:1::1/128", "Port Control Protocol Anycast", "RFC 7723", true),
	entry("2001:1::2/128", "Traversal Using Relays around NAT Anycast", "RFC 8155", true),
	entry("2001:1::3/128", "DNS-SD Service Registration Protocol Anycast", "RFC 9665", true),
	entry("2001:2::/48", "Benchmarking", "RFC 5180", false),
	entry("2001:3::/32", "AMT", "RFC 7450", true),
	entry("2001:4:112::/48", "AS112-v6", "RFC 7535", true),
	entry("2001:10::/28", "Deprecated (previously ORCHID)", "RFC 4843", false),
	entry("2001:20::/28", "ORCHIDv2", "RFC 7343", true),
	entry("2001:30::/28", "Drone Remote ID Protocol Entity Tags (DETs) Prefix", "RFC 9374", true),
	entry("2001:db8::/32", "Documentation", "RFC 3849", false),
	entry("2002::/16", "6to4", "RFC 3056", true),
	entry("2620:4f:8000::/48", "Direct Delegation AS112 Service", "RFC 7534", true),
	entry("3fff::/20", "Documentation", "RFC 9637", false),
	entry("5f00::/16", "Segment Routing (SRv6) SIDs", "RFC 9602", false),
	entry("fc00::/7", "Unique-Local", "RFC 4193", false),
	never("fe80::/10", "Link-Local Unicast", "RFC 4291"),
	never("ff00::/8", "Multicast", "RFC 4291 2.7"),
}

// IPv4Mapped is what sockets and files write IPv4 addresses in. It is never on
// the wire (RFC 4291 2.5.5.2).
var IPv4Mapped = netip.MustParsePrefix("::ffff:0:0/96")

// Lookup is the most specific entry around a, and false for an ordinary address.
func Lookup(a netip.Addr) (found Entry, ok bool) {
	for _, e := range Registry {
		if e.Prefix.Contains(a) && (!ok || e.Prefix.Bits() > found.Prefix.Bits()) {
			found, ok = e, true
		}
	}
	return found, ok
}

// Never says that a is translated in no mode.
func Never(a netip.Addr) bool {
	e, ok := Lookup(a)
	return ok && e.Never
}

// Within finds an entry whose addresses are never translated and that holds all
// of p.
func Within(p netip.Prefix) (Entry, bool) {
	for _, e := range Registry {
		if e.Never && e.Prefix.Bits() <= p.Bits() && e.Prefix.Contains(p.Addr()) {
			return e, true
		}
	}
	return Entry{}, false
}

// Overlaps finds an entry whose addresses are never translated and that p holds
// an address of.
func Overlaps(p netip.Prefix) (Entry, bool) {
	for _, e := range Registry {
		if e.Never && e.Prefix.Overlaps(p) {
			return e, true
		}
	}
	return Entry{}, false
}
