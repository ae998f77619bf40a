package doctor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
)

// headerDifference is how much longer an IPv6 header is than an IPv4 one, and
// withFragment with a fragment header (RFC 7915 1.4).
const (
	headerDifference = 20
	withFragment     = 28
	minIPv6MTU       = 1280 // RFC 8200 section 5
)

// mtu compares what the file says with the interfaces, and does the sums.
func (v *visit) mtu() {
	const check = "mtu"
	if v.Config == nil {
		return
	}
	c := v.Config
	key, outside := c.UplinkMTU()
	if l := v.link(c.Uplink); l != nil && l.MTU < outside {
		v.fail(check, config.InYAML(key, l.MTU), "%s is %d, but %s takes packets of %d bytes at most", key, outside, l.Name, l.MTU)
	}
	if l := v.link(c.Device.Name); l != nil && l.MTU < c.Device.MTU {
		v.fail(check, "natlessd sets it again within a second; find out what changes it", "%s has an MTU of %d instead of %d", l.Name,
			l.MTU, c.Device.MTU)
	}
	if c.Device.MTU < c.MTU.IPv6 || c.Device.MTU < outside {
		v.warn(check, fmt.Sprintf("device: {mtu: %d}", max(c.MTU.IPv6, outside)),
			"device.mtu %d is smaller than %s %d or mtu.ipv6 %d: what is longer never reaches natlessd", c.Device.MTU, key, outside, c.MTU.IPv6)
	}
	v.mtuOfWorkloads()
	if c.LowestIPv6MTU > c.MTU.IPv6 {
		v.warn(check, fmt.Sprintf("lowest_ipv6_mtu: %d", minIPv6MTU), "lowest_ipv6_mtu %d is larger than mtu.ipv6 %d", c.LowestIPv6MTU,
			c.MTU.IPv6)
	}
	if v.sound(check) {
		if c.Edge.Enabled {
			outside -= headerDifference // IPv4 from the relay on
		}
		largest := min(outside, c.MTU.IPv6-headerDifference)
		v.ok(check, "IPv4 packets of up to %d bytes reach workloads whole (%d - %d), of %d with a fragment header",
			largest, c.MTU.IPv6, headerDifference, c.MTU.IPv6-withFragment)
	}
}

func (v *visit) mtuOfWorkloads() {
	narrow, wide := map[string]int{}, map[string]int{}
	gains := headerDifference // what a packet has less of behind the translator
	if v.Config.Edge.Enabled {
		gains = 0
	}
	uplink := v.link(v.uplinkInUse())
	defer func() { v.wide(wide, uplink) }()
	for _, w := range v.workloads[:min(len(v.workloads), maxContainers)] {
		if len(w.Request.IPv6) == 0 {
			continue
		}
		device, err := v.Host.RouteTo(w.Request.IPv6[0])
		if err != nil || narrow[device] > 0 {
			continue
		}
		l := v.link(device)
		if l != nil && uplink != nil && l.MTU > uplink.MTU+gains && device != v.Config.Device.Name {
			wide[device] = l.MTU
		}
		if l != nil && l.MTU < v.Config.MTU.IPv6 {
			narrow[device] = l.MTU
			v.warn("mtu", fmt.Sprintf("mtu: {ipv6: %d}, or a larger MTU there", l.MTU),
				"mtu.ipv6 is %d, but %s, toward %s, takes packets of %d bytes at most", v.Config.MTU.IPv6, device, w.Key, l.MTU)
		}
	}
}

// wide: what a workload sends is longer than the uplink takes.
func (v *visit) wide(links map[string]int, uplink *Link) {
	if len(links) == 0 || v.failed("mtu") { // one thing at a time
		return
	}
	names := slices.Sorted(maps.Keys(links))
	v.warn("mtu", fmt.Sprintf("give the workloads' links an MTU of %d (the plugin before natless-cni: \"mtu\")", uplink.MTU),
		"%s has an MTU of %d, and %s takes packets of %d bytes at most: each connection to IPv4 first loses its long packets, until "+
			"natlessd's answer (packet too big) has arrived", words.Some(names, 3), links[names[0]], uplink.Name, uplink.MTU)
}

// patience is how long one answer is waited for.
const patience = 2 * time.Second

// answers sends a real packet through the device and back.
func (v *visit) answers() {
	const check = "answers"
	if v.Config == nil || v.status == nil {
		return
	}
	own := []netip.Addr{v.Config.Addresses.IPv6, v.Config.Addresses.IPv4}
	var asked, not []string
	for _, a := range own {
		if !v.askable(a) {
			not = append(not, a.String())
			continue
		}
		asked = append(asked, a.String())
		ctx, cancel := context.WithTimeout(v.ctx, patience)
		err := v.Host.Echo(ctx, a)
		cancel()
		if err != nil {
			v.fail(check, "see the lines above and below: device, routes, sysctls, firewall",
				"the translator does not answer a ping at %v: %v", a, err)
		}
	}
	switch {
	case !v.sound(check):
	case not == nil:
		v.ok(check, "the translator answers at %s", strings.Join(asked, " and "))
	case asked == nil:
		v.ok(check, "the translator cannot be asked from here: this host has no IPv4 or IPv6 address but those of its links alone")
	default:
		v.ok(check, "the translator answers at %s; %s cannot be asked from here: this host has no such address itself, but on its "+
			"links alone",
			strings.Join(asked, " and "), strings.Join(not, " and "))
	}
}

// filters looks for what drops or rewrites translated packets on their way.
func (v *visit) filters() {
	const check = "firewall"
	if v.Config == nil {
		return
	}
	device := v.Config.Device.Name
	chains, err := v.Host.Chains()
	if err != nil {
		v.unknown(check, err)
	}
	for _, c := range chains {
		if c.Hook == "forward" && c.DropsByDefault && !c.Accepts {
			v.warn(check, acceptRule(c, device),
				"chain %v drops what it has no rule for, and has none for %s: translated packets may end there", c, device)
		}
		if c.Masquerades {
			v.warn(check, fmt.Sprintf("nft insert rule %s %s %s iifname %s accept", c.Family, c.Table, c.Name, device),
				"chain %v masquerades: where that takes in what comes from %s, ports are rewritten and whois is wrong", c, device)
		}
	}
	for _, t := range v.Host.LegacyTables() {
		v.warn(check, fmt.Sprintf("iptables-legacy -t %s -S: nothing there may drop or rewrite what comes from %s or goes there", t,
			device), "the older iptables has rules in its table %s, which cannot be judged here", t)
	}
	if v.sound(check) {
		v.ok(check, "nothing drops or rewrites what is forwarded by default")
	}
}

func acceptRule(c Chain, device string) string {
	if c.Name == "FORWARD" && (c.Family == "ip" || c.Family == "ip6") {
		program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[c.Family]
		return fmt.Sprintf("%s -I FORWARD -i %s -j ACCEPT; %s -I FORWARD -o %s -j ACCEPT", program, device, program, device)
	}
	return fmt.Sprintf("nft insert rule %s %s %s iifname %s accept; nft insert rule %s %s %s oifname %s accept",
		c.Family, c.Table, c.Name, device, c.Family, c.Table, c.Name, device)
}

func (v *visit) antiSpoofing() {
	const check = "anti-spoofing"
	if v.status == nil || slices.ContainsFunc(v.status.Checks, func(c api.Check) bool { return c.Name == check && c.State != string(OK) }) {
		return // told by the daemon
	}
	switch installed, err := v.Host.AntiSpoofing(); {
	case err != nil:
		v.unknown(check, err)
	case !installed:
		v.fail(check, "natlessd puts them back within a second; nft list ruleset shows what is there",
			"the rules against spoofed sources are gone")
	default:
		v.ok(check, "packets with a spoofed source are dropped at workloads' interfaces and ports of bridges")
	}
}

// connectionTracking is not natless's, but where it runs it counts translated
// packets too, and a full table drops them.
func (v *visit) connectionTracking() {
	const check = "conntrack"
	count, err1 := strconv.Atoi(v.Host.Sysctl("net/netfilter/nf_conntrack_count"))
	most, err2 := strconv.Atoi(v.Host.Sysctl("net/netfilter/nf_conntrack_max"))
	switch {
	case err1 != nil || err2 != nil:
		v.ok(check, "the kernel tracks no connections")
	case count*5 > most*4:
		v.warn(check, "raise net.netfilter.nf_conntrack_max, or keep translated packets out of it: a rule with notrack for "+v.deviceName(),
			"the kernel's table of connections is nearly full (%d of %d): a full one drops packets", count, most)
	default:
		v.ok(check, "%d of %d connections in the kernel's table", count, most)
	}
}

func (v *visit) deviceName() string {
	if v.Config == nil {
		return "natless0"
	}
	return v.Config.Device.Name
}

// wellKnownName has IPv4 addresses only, so an IPv6 answer comes from DNS64 and
// holds the prefix (RFC 7050).
const wellKnownName = "ipv4only.arpa"

func (v *visit) resolver() {
	const check = "dns64"
	if v.Config == nil || v.status == nil {
		return
	}
	if !v.Config.DNS64.Enabled {
		v.ok(check, "off: workloads need another DNS64 for names, or addresses under the prefix")
		return
	}
	if !v.sound(check) {
		return // told by the daemon
	}
	if v.upstreams(check); !v.sound(check) {
		return // the resolver can do no better
	}
	if !v.askable(v.Config.Addresses.IPv6) {
		v.ok(check, "the resolver at %v cannot be asked from here: this host has link-local IPv6 addresses only",
			v.Config.Addresses.IPv6)
		return
	}
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	server := netip.AddrPortFrom(v.Config.Addresses.IPv6, 53)
	addrs, err := v.Host.Resolve(ctx, server, wellKnownName)
	switch {
	case err != nil:
		v.fail(check, "its upstreams answer this host: check whether a firewall drops what comes from "+v.deviceName(),
			"the resolver at %v does not answer for %s: %v", server, wellKnownName, err)
	case !slices.ContainsFunc(addrs, v.Config.Prefix.Contains):
		v.fail(check, "check that prefix is the one that workloads use", "the resolver at %v says that %s is %v, which is not in %v",
			server, wellKnownName, addrs, v.Config.Prefix)
	default:
		v.ok(check, "the resolver at %v puts %s into %v", server, wellKnownName, v.Config.Prefix)
	}
}

// others are programs, kernel modules and kinds of device that translate too.
var others = []string{"tayga", "jool", "jool_siit", "jool_common", "tundra", "clatd", "clat", "nat64", "siit"}

func (v *visit) translators() {
	const check = "translators"
	report := func(kind, name string) {
		v.warn(check, "stop it, unless it has prefixes and addresses of its own", "%s %s translates on this host, too", kind, name)
	}
	for _, m := range v.Host.Modules() {
		if slices.Contains(others, m) {
			report("kernel module", m)
		}
	}
	for _, p := range v.Host.Processes() {
		if slices.Contains(others, p) {
			report("program", p)
		}
	}
	links, _ := v.Host.Links()
	for _, l := range links {
		name := strings.TrimRight(l.Name, "0123456789")
		if l.Name != v.deviceName() && slices.Contains(others, name) {
			report("device", l.Name)
		}
	}
	if v.sound(check) {
		v.ok(check, "there is no other translator")
	}
}
