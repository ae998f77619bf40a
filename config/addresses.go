package config

import "net/netip"

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

var (
	// never is what is not translated in any mode.
	never = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
		"::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")
	// notGlobal is IPv4 that is translatable, but not under the well-known
	// prefix (RFC 6890 section 2.2.2, RFC 5737, RFC 6598).
	notGlobal = prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24")
)

// usable says that a prefix lies outside of what is never translated.
func usable(p netip.Prefix) bool {
	for _, n := range never {
		if n.Overlaps(p) {
			return false
		}
	}
	return true
}

func global(a netip.Addr) bool {
	for _, n := range notGlobal {
		if n.Contains(a) {
			return false
		}
	}
	return usable(netip.PrefixFrom(a, 32))
}
