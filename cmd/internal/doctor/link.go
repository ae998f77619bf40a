package doctor

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/natless/natless/config/api"
)

// held looks for addresses of ours that others on the host's links hold by right:
// the host itself, gateways, networks and broadcasts.
func (v *visit) held() {
	const check = "addresses"
	if v.Config == nil || v.status != nil && slices.ContainsFunc(v.status.Checks,
		func(c api.Check) bool { return c.Name == check && c.State != string(OK) }) {
		return // told by the daemon
	}
	held, err := v.Host.Held()
	if err != nil {
		v.unknown(check, err)
		return
	}
	if err := v.Config.Unusable(held); err != nil {
		for line := range strings.Lines(err.Error()) {
			v.fail(check, "choose an address that nobody has on the host's links (ip address, ip route)", "%s", strings.TrimSpace(line))
		}
		return
	}
	if covered := v.Config.Covered(held); len(covered) > 0 {
		words := make([]string, 0, len(covered))
		for _, a := range covered[:min(len(covered), 8)] {
			words = append(words, a.String()+" is "+held[a])
		}
		v.ok(check, "%d addresses of pools and mappings are given to nobody: %s", len(covered), strings.Join(words, ", "))
		return
	}
	v.ok(check, "others hold no address of natless on the host's links")
}

// maxProbes bounds how many addresses are asked for.
const maxProbes = 256

// neighbours asks the uplink's link whether another host has an address of ours
// (RFC 5227 2.1.1 and more). natlessd itself does not: it would take seconds before a
// workload has its address, each time.
func (v *visit) neighbours() {
	const check = "neighbours"
	if v.Config == nil || v.Config.Uplink == "" {
		return
	}
	if l := v.link(v.uplinkInUse()); l == nil || !l.Up {
		return // told already
	}
	ours, all := v.answeredFor()
	others, err := v.Host.Neighbours(v.ctx, v.uplinkInUse(), ours)
	if err != nil {
		v.unknown(check, err)
		return
	}
	for _, a := range slices.SortedFunc(maps.Keys(others), netip.Addr.Compare) {
		v.warn(check, "take it from that host, or out of pools and mappings; a router that answers for all (proxy ARP) must not do "+
			"so on this link",
			"%v is at another host, too: %s answers for it on %s", a, others[a], v.uplinkInUse())
	}
	switch {
	case !v.sound(check):
	case all:
		v.ok(check, "nobody else on %s answers for one of the %d addresses of natless", v.uplinkInUse(), len(ours))
	default:
		v.ok(check, "nobody else on %s answers for one of the first %d addresses of natless", v.uplinkInUse(), len(ours))
	}
}

// answeredFor is the IPv4 addresses that the daemon answers for on the uplink, as
// many as may be asked for, and whether these are all.
func (v *visit) answeredFor() (ours []netip.Addr, all bool) {
	held, err := v.Host.Held()
	if err != nil {
		held = nil // who holds one answers for it: better one finding too many
	}
	prefixes := append([]netip.Prefix{netip.PrefixFrom(v.Config.Addresses.IPv4, 32)}, v.Config.Mapped4()...)
	for _, p := range v.Config.Pools {
		if p.Static() {
			prefixes = append(prefixes, p.IPv4.Prefix)
		}
	}
	for _, p := range prefixes {
		for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
			if held[a] != "" {
				continue
			}
			if len(ours) == maxProbes {
				return ours, false
			}
			ours = append(ours, a)
		}
	}
	return ours, true
}

// delays says which of the kernel's settings make neighbours wait.
func (v *visit) delays() {
	u := v.uplinkInUse()
	if u == "" || v.status == nil && v.Config.ManageSysctls {
		return
	}
	family := "ipv4"
	if v.Config.Edge.Enabled {
		family = "ipv6"
	}
	key := "net/" + family + "/neigh/" + u + "/proxy_delay"
	if delay := v.Host.Sysctl(key); delay != "" && delay != "0" {
		v.warn("sysctls", "sysctl -w "+strings.ReplaceAll(key, "/", ".")+"=0",
			"hosts on %s wait up to %s0 ms for the first answer for an address of ours", u, delay)
	}
}

// askable reports whether an answer can be expected from a translator's address: the
// kernel must have an address to ask from that is translated or routed back. Many
// a host has IPv6 on its links alone, or no IPv4.
func (v *visit) askable(to netip.Addr) bool {
	from, err := v.Host.Source(to)
	return err == nil && from.IsValid() && !from.IsUnspecified() && !from.IsLoopback() && !from.IsLinkLocalUnicast()
}
