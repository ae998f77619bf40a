//go:build linux

package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/netstack/route"
)

// held says whether workloads, mappings or the translator have what somebody else
// on the host's links holds by now.
func (d *Daemon) held(c *config.Config) api.Check {
	check := api.Check{Name: "addresses", State: "ok"}
	taken := *d.reloader.taken.Load()
	if err := c.Unusable(taken); err != nil {
		check.State, check.Detail = "fail", strings.ReplaceAll(err.Error(), "\n", "; ")
		return check
	}
	if on := d.keeper.OnBarred(); len(on) > 0 {
		addrs, n := slices.SortedFunc(maps.Keys(on), netip.Addr.Compare), 0
		for _, count := range on {
			n += count
		}
		check.State = "warn"
		check.Detail = fmt.Sprintf("%d workloads have addresses that others hold, and get no answers there: %s; create them again, "+
			"to get other addresses", n, taken.Words(addrs))
		return check
	}
	if covered := c.Covered(taken); len(covered) > 0 {
		check.Detail = fmt.Sprintf("%d that pools or mappings cover are given to nobody: %s", len(covered), taken.Words(covered))
	}
	return check
}

// upstreams says what the servers that DNS64 asks do wrong. All of them do not
// answer: it is broken. Some do not: it is slower.
func upstreams(d *dns64.Server) api.Check {
	check := api.Check{Name: "dns64", State: "ok"}
	var troubles []string
	list, silent := d.Upstreams(), 0
	for _, u := range list {
		if u.Trouble != "" {
			troubles = append(troubles, fmt.Sprintf("%v %s", u.Address, u.Trouble))
		}
		if u.Silent {
			silent++
		}
	}
	switch {
	case len(list) == 0:
		check.State, check.Detail = "fail", "no server to ask: name one in dns64.upstreams or in /etc/resolv.conf"
		return check
	case silent == len(list):
		check.State = "fail"
	case len(troubles) > 0:
		check.State = "warn"
	}
	if n := d.Stats.Results[dns64.Limited].Load(); n > 0 {
		troubles = append(troubles, fmt.Sprintf("%d queries beyond their client's share failed", n))
	}
	if from, any := d.Stranger(); any {
		n := d.Stats.Results[dns64.Prohibited].Load()
		troubles = append(troubles, fmt.Sprintf("%d queries refused, the last from %v (see dns64.clients)", n, from))
	}
	check.Detail = strings.Join(troubles, "; ")
	return check
}

// spoofed is what was dropped since it had a source that it cannot have, by
// cause, and whether the rules are there that do.
func spoofed() (causes map[string]uint64, installed bool, err error) {
	a, err := route.ReadAntiSpoofing()
	if err != nil {
		return nil, false, err
	}
	more, err := guard.Read()
	maps.Copy(a.Causes, more)
	return a.Causes, a.Installed, err
}

// spoofing says whether such packets are dropped, and where they are not.
func (d *Daemon) spoofing() api.Check {
	const name = "anti-spoofing"
	causes, installed, err := spoofed()
	switch {
	case err != nil:
		return api.Check{Name: name, State: "warn", Detail: err.Error()}
	case !installed:
		return api.Check{Name: name, State: "fail", Detail: "its nftables rules are gone: a workload can send with another's source"}
	}
	check := api.Check{Name: name, State: "ok", Detail: dropped(causes)}
	if lacking := d.host.Guard.Lacking(); len(lacking) > 0 {
		check.State, check.Detail = "warn", strings.Join(append(lacking, check.Detail), "; ")
	}
	return check
}

func dropped(causes map[string]uint64) string {
	var all uint64
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		if n := causes[cause]; n > 0 {
			all += n
			parts = append(parts, fmt.Sprintf("%s %d", cause, n))
		}
	}
	if all == 0 {
		return "0 packets dropped"
	}
	return fmt.Sprintf("%d packets dropped: %s", all, strings.Join(parts, ", "))
}

// insisted says whether what the configuration asks for is so: the fast path, and
// the uplink.
func (d *Daemon) insisted(c *config.Config) (checks []api.Check) {
	if c.FastPath == config.FastPathRequired {
		check := api.Check{Name: "fast path", State: "ok"}
		if err := d.host.FastPath.Insufficient(); err != nil {
			check.State, check.Detail = "fail", err.Error()
		}
		checks = append(checks, check)
	}
	checks = append(checks, uplinkChecks(c)...)
	if bridge, err := route.BridgeOf(c.Uplink); err == nil && bridge != "" {
		check := api.Check{Name: "uplink", State: "ok", Detail: fmt.Sprintf("%s is a port of bridge %s, which is used", c.Uplink, bridge)}
		if bridge != d.host.State().Routes.Uplink {
			check.State, check.Detail = "fail", fmt.Sprintf("%s has become a port of bridge %s: restart natlessd, or configure uplink: %s",
				c.Uplink, bridge, bridge)
		}
		checks = append(checks, check)
	}
	return checks
}

// written says whether assignments can be written.
func written(r *registry.Registry) api.Check {
	if err := r.Broken(); err != nil {
		return api.Check{Name: "registry", State: "fail", Detail: err.Error()}
	}
	if err := r.Failed(); err != nil {
		return api.Check{Name: "registry", State: "fail",
			Detail: "new workloads wait: the last change could not be written: " + err.Error()}
	}
	return api.Check{Name: "registry", State: "ok"}
}

// announcements says whether the uplink's link hears of our addresses.
func announcements(m *route.Manager) api.Check {
	n, err := m.Announcements()
	if err != nil {
		return api.Check{Name: "announcements", State: "warn", Detail: fmt.Sprintf(
			"neighbours are not told when an address becomes ours (%v): give natlessd CAP_NET_RAW", err)}
	}
	return api.Check{Name: "announcements", State: "ok", Detail: fmt.Sprintf("%d sent", n)}
}

// homeless looks for assignments that no pool would give any more.
func homeless(r *registry.Registry) api.Check {
	outside := r.Outside()
	if len(outside) == 0 {
		return api.Check{Name: "pools", State: "ok"}
	}
	const most = 5
	var words []string
	for _, o := range outside[:min(most, len(outside))] {
		if o.Ports.IsZero() {
			words = append(words, o.Address.String())
		} else {
			words = append(words, fmt.Sprintf("%s ports %v", o.Address, o.Ports))
		}
	}
	if n := len(outside) - most; n > 0 {
		words = append(words, fmt.Sprintf("and %d more addresses", n))
	}
	return api.Check{Name: "pools", State: "warn", Detail: fmt.Sprintf(
		"workloads have what is in no pool any more, and keep it until they end: %s", strings.Join(words, ", "))}
}
