package translator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

// An address of ours is one that is routed to us: a workload's, a pool's, the
// translator's own, one of the ICMP source pools. Packets that leave us have such a
// source; packets that arrive never do. A packet to such an address that is not
// assigned is dropped here, because the route would bring it straight back.

// range4 is the IPv4 addresses from first to last.
type range4 struct{ first, last uint32 }

// ranges4 is a set of IPv4 addresses.
type ranges4 struct {
	all  range4   // from the first to the last of them
	list []range4 // in order; they neither overlap nor touch
}

func newRanges4(prefixes []netip.Prefix) ranges4 {
	all := make([]range4, len(prefixes))
	for i, p := range prefixes {
		mask := ^uint32(0) << (32 - p.Bits())
		first := mapping.Addr4From(p.Addr()) & mask
		all[i] = range4{first, first | ^mask}
	}
	slices.SortFunc(all, func(a, b range4) int { return cmp.Compare(a.first, b.first) })
	merged := all[:0]
	for _, r := range all {
		if n := len(merged); n > 0 && uint64(r.first) <= uint64(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
		} else {
			merged = append(merged, r)
		}
	}
	if len(merged) == 0 {
		return ranges4{}
	}
	return ranges4{range4{merged[0].first, merged[len(merged)-1].last}, merged}
}

// has is short for most addresses, which lie far from all of r.
func (r *ranges4) has(a uint32) bool {
	return a-r.all.first <= r.all.last-r.all.first && r.search(a)
}

func (r *ranges4) search(a uint32) bool {
	low, high := 0, len(r.list)
	for low < high {
		if middle := (low + high) / 2; a > r.list[middle].last {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low < len(r.list) && a >= r.list[low].first
}

// ours4 are the IPv4 addresses of ours that no mapping makes so.
func ours4(c Config) ranges4 {
	prefixes := append(slices.Clone(c.Pools4), netip.PrefixFrom(c.IPv4, 32))
	if c.ICMPSource4.IsValid() {
		prefixes = append(prefixes, c.ICMPSource4)
	}
	for _, r := range c.Rules.All() {
		prefixes = append(prefixes, r.IPv4) // rule 1.8.ours
	}
	for _, b := range c.Edge.Blocks { // rule 1.10.ours
		prefixes = append(prefixes, b.IPv4)
	}
	return newRanges4(prefixes)
}

// pool6 is the ICMP source pool of IPv6 and its mask.
func pool6(c Config) (a, mask mapping.Addr6) {
	p := c.ICMPSource6
	if !p.IsValid() {
		return a, mask
	}
	return mapping.Addr6From(p.Addr()), mapping.Addr6{Hi: ^uint64(0) << max(64-p.Bits(), 0), Lo: ^uint64(0) << min(128-p.Bits(), 64)}
}

// ours6 says that a is the translator's own IPv6 address, or one that its errors
// come from.
func (s *snapshot) ours6(a mapping.Addr6) bool {
	return a == s.own6 || s.pooled6 && (a.Hi^s.sources6.Hi)&s.mask6.Hi|(a.Lo^s.sources6.Lo)&s.mask6.Lo == 0
}

// nobodys4 reports whether a, which no mapping covers, is an address of ours that is
// not assigned.
func (s *snapshot) nobodys4(a uint32) bool { return s.ours.has(a) && a != s.host4 }

// workloads4 says that a belongs to workloads. Without a prefix a mapping may as
// well be what names an IPv4 host, unless it has ports.
func (s *snapshot) workloads4(a uint32, p port) bool {
	e := s.table.Lookup4(a)
	switch {
	case e == nil:
		return false
	case a == s.host4: // the host's, too, but for their ports
		return e.Shared() && p.known && s.table.Port(e, a, p.number) != nil
	}
	return s.prefix || e.Shared() || e.Inside()
}

// spoofed4 says that an IPv4 packet has an address of ours as its source. What
// comes to us by IPv4 comes from the IPv4 side: workloads have no IPv4, or come
// with it to Pass4. In a client they have nothing else (RFC 6877).
func (s *snapshot) spoofed4(h *parsed, b []byte) bool {
	if s.client {
		return false
	}
	var from port
	if h.src4 == s.host4 && h.first() && h.proto != protoICMP4 {
		from.number, _, from.known = portsOf(h.proto, b[h.upper:])
	}
	return s.nobodys4(h.src4) || s.workloads4(h.src4, from) // rule 1.1.ours-source4
}

// spoofed6 says that an IPv6 packet from a has an address of ours as its source.
// That of a workload is its own, but what stands for it in the prefix is not.
func (s *snapshot) spoofed6(a mapping.Addr6) bool {
	if s.client {
		return false
	}
	if s.ours6(a) {
		return true
	}
	v4, ok := s.table.Extract(a)
	if !ok || s.table.Lookup6(a) != nil {
		return false
	}
	return s.ours.has(v4) || v4 == s.host4 && v4 != 0 || s.table.Lookup4(v4) != nil // rule 1.1.ours-source6
}

// unrouted says that a packet to a was one that no router has seen: its
// destination is of ours.
func (s *snapshot) unrouted(a uint32, p port) bool {
	return !s.client && (s.nobodys4(a) || s.workloads4(a, p))
}
