package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// facts are what the desired state depends on besides our configuration.
type facts struct {
	device   int            // interface index of the device, 0 when there is none
	rpFilter bool           // net.ipv4.conf.all.rp_filter is on
	onLink6  []netip.Prefix // IPv6 prefixes of the uplink's link
	taken    Taken          // what others hold on the host's links
	held     []netip.Addr   // of that, IPv4 of others: the host must reach them where they are
	zeroth   int            // policy rules of others with priority 0, but for the local table's
}

// want is the desired state, without sysctls (see sysctl.go). A warning says
// what was left out.
func want(c Config, d Desired, f facts) (s state, warnings []string) {
	s = state{}
	warnings = warnTaken(d, f.taken)
	s.add(link{up: true, mtu: d.MTU, txQueueLen: c.TxQueueLen})
	for _, p := range append(routed4(d, f), routed6(d)...) {
		s.add(route{dst: p})
	}
	for _, p := range outermost(slices.Clone(d.Served.Prefixes)) {
		s.add(served(p, d.Served))
	}
	if d.Uplink != "" {
		proxies, w := proxies(d, f)
		s.add(proxies...)
		warnings = append(warnings, w...)
	}
	for _, def := range nftDefs(c.Device, d, f) {
		s.add(def.object())
		s.add(def.contents()...)
	}
	wantHostPool(s, d, f)
	if d.HostPool.Addr.IsValid() && f.zeroth > 1 {
		warnings = append(warnings, fmt.Sprintf("%d policy rules of others have priority 0 (ip rule): while the host's address is "+
			"shared, rules without a priority are asked in the order in which they were added, not in reverse: give them priorities", f.zeroth))
	}
	return s, warnings
}

// defaultMetric6 is the metric of an IPv6 route that has none (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

// served is the route of a prefix that is served.
func served(p netip.Prefix, s Served) route {
	r := route{dst: p, table: s.Table, metric: s.Metric}
	if p.Addr().Is6() && r.metric == defaultMetric6 {
		r.metric = 0
	}
	return r
}

// routed4 gives the IPv4 prefixes that lead to the device. What others hold there
// does not: the host's own packets to its gateway must find it.
func routed4(d Desired, f facts) (out []netip.Prefix) {
	for _, p := range outermost(append([]netip.Prefix{single(d.IPv4), d.ICMPSource4}, d.Mapped4...)) {
		out = append(out, without(p, f.held)...)
	}
	return out
}

// routed6 gives the IPv6 prefixes that lead to the device. The IPv6 side of a
// mapping is not among them: workloads are where the host's routes say.
func routed6(d Desired) []netip.Prefix {
	return outermost(append([]netip.Prefix{d.Prefix, single(d.IPv6), d.ICMPSource6}, d.Blocks6...))
}

// outermost sorts the valid prefixes and leaves out those within another.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	prefixes = slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	out := prefixes[:0]
	for _, p := range prefixes {
		if len(out) == 0 || !out[len(out)-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// proxies gives a proxy neighbour for each address of ours that a host on the
// uplink's link may ask for, as far as they go: the smallest prefixes first, so
// that one large block does not take what many small ones need.
func proxies(d Desired, f facts) (out []object, warnings []string) {
	all := outermost(append([]netip.Prefix{single(d.IPv4)}, d.Mapped4...))
	if len(d.Blocks6) > 0 { // nobody asks for IPv4 there
		all = nil
	}
	slices.SortStableFunc(all, func(a, b netip.Prefix) int { return b.Bits() - a.Bits() })
	out = proxied6(d, f)
	left := 0
	for _, p := range all {
		if len(out)+1<<(32-p.Bits()) > maxProxies {
			if left++; left <= maxProxyWarnings {
				warnings = append(warnings, fmt.Sprintf(
					"%v is too large to answer ARP for on %s (at most %d addresses in all): route it to this host on the router",
					p, d.Uplink, maxProxies))
			}
			continue
		}
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			if f.taken[a] == "" {
				out = append(out, proxy{dev: d.Uplink, addr: a})
			}
		}
	}
	if left > maxProxyWarnings {
		warnings = append(warnings, fmt.Sprintf("and %d more like that", left-maxProxyWarnings))
	}
	return out, warnings
}
