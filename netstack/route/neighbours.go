package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// What the kernel needs so that a neighbour on the uplink's link gets an answer
// when it asks for an address of ours. Without proxy_delay=0 an answer waits for
// a random time of up to 0.8 s in a queue of 64, and what does not fit into the
// queue gets none (arp_process and ndisc_recv_ns of the kernel; RFC 4861 7.2.8
// asks for the delay so that the real owner of the address comes first: nobody
// but this host owns ours). With it the answer leaves at once and the queue,
// proxy_qlen, is not used.

func proxyDelay(family, dev string) string { return "net/" + family + "/neigh/" + dev + "/proxy_delay" }

// neighbours asks for it. A kernel in which these cannot be set answers late, or
// over IPv4 alone, which is no reason to end: they are wishes.
func (p *sysctlPlan) neighbours(d Desired, f facts) {
	if !slices.ContainsFunc(p.ifaces, func(i iface) bool { return i.name == d.Uplink }) {
		return
	}
	proxies, _ := proxies(d, f)
	families := map[bool]bool{} // whether IPv6
	for _, o := range proxies {
		families[o.(proxy).addr.Is6()] = true
	}
	if families[false] {
		p.wish(proxyDelay("ipv4", d.Uplink), "0")
	}
	if families[true] {
		p.wish("net/ipv6/conf/"+d.Uplink+"/proxy_ndp", "1")
		p.wish(proxyDelay("ipv6", d.Uplink), "0")
	}
}

// wish is need for what natless works without.
func (p *sysctlPlan) wish(key, value string) {
	if p.read(key) != "" {
		p.wishes = append(p.wishes, sysctl{key, value})
	}
}

// ungranted says which wishes do not hold.
func ungranted(wishes []sysctl, why string) []string {
	if len(wishes) == 0 {
		return nil
	}
	words := make([]string, len(wishes))
	for i, s := range wishes {
		words[i] = s.assignment()
	}
	return []string{fmt.Sprintf("neighbours on the uplink get late answers for our addresses, or none (%s): run sysctl -w %s", why,
		strings.Join(words, " "))}
}

// proxied6 is the translator's own IPv6 address where hosts on the uplink's link
// take it for one of theirs: it lies in a prefix that is on the link. So are the
// host's addresses for what it was lent, one by one. Nothing else of ours is
// asked for there: workloads are where the host's routes say, and
// the prefix stands for all of IPv4. Neighbours that later ask the address itself
// whether it is still there (RFC 4861 7.3) hear nothing, since that is forwarded
// to the device; they ask the link again, and go on.
func proxied6(d Desired, f facts) (out []object) {
	for _, p := range outermost(append([]netip.Prefix{single(d.IPv6)}, d.Blocks6...)) {
		for a := p.Addr(); p.Contains(a) && len(out) < maxProxies; a = a.Next() {
			if !slices.ContainsFunc(f.onLink6, func(link netip.Prefix) bool { return link.Contains(a) }) {
				break // nor is the next
			}
			out = append(out, proxy{dev: d.Uplink, addr: a})
		}
	}
	return out
}
