package doctor

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/natless/natless/cmd/internal/words"
)

func (v *visit) kernel() {
	const check = "kernel"
	if err := v.Host.DeviceNode(); err != nil {
		v.fail(check, "load the module tun, or give the container the device (--device /dev/net/tun)", "/dev/net/tun cannot be used: %v", err)
	}
	if v.Host.Sysctl("net/ipv6/conf/all/forwarding") == "" {
		v.fail(check, "boot without ipv6.disable=1", "there is no IPv6")
	}
	if v.sound(check) {
		v.ok(check, "the kernel has TUN and IPv6")
	}
}

func (v *visit) link(name string) *Link {
	links, err := v.Host.Links()
	if err != nil {
		return nil
	}
	if i := slices.IndexFunc(links, func(l Link) bool { return l.Name == name }); i >= 0 {
		return &links[i]
	}
	return nil
}

func (v *visit) device() {
	const check = "device"
	if v.Config == nil {
		return
	}
	name := v.Config.Device.Name
	l := v.link(name)
	full := v.queueFull(l)
	switch {
	case l == nil && v.before:
	case l == nil && v.status == nil:
		v.warn(check, "start natlessd, which creates it", "there is no %s while natlessd is down", name)
	case l == nil:
		v.fail(check, "natlessd creates it again within a second; its log says why it cannot", "there is no %s", name)
	case l.Kind != "tuntap" && l.Kind != "tun":
		v.fail(check, "choose another device.name, or delete it (ip link del "+name+")", "%s is a %s, not a TUN device", name, l.Kind)
	case !l.Up:
		v.fail(check, "natlessd sets it up again within a second; find out what takes it down", "%s is down", name)
	case full > 0 && full*1000 > l.Sent:
		v.warn(check, "more device.queues, or a faster path (fast_path: auto); see its rate in natless_device_… metrics",
			"%s found its queue full for %d of %d packets", name, full, l.Sent)
	default:
		v.ok(check, "%s is up, %d of %d packets found its queue full", name, full, l.Sent)
	}
	for _, u := range v.Config.AllUplinks() {
		v.uplink(u)
	}
	for _, name := range v.Config.Fabric {
		if l := v.link(name); l == nil || !l.Up {
			v.fail("fabric", "bring it up, or leave it out of the key fabric", "there is no interface %s, or it is down", name)
		}
	}
}

// queueFull is how many packets found a device's queue full: the kernel counts those with
// them that somebody gave way with.
func (v *visit) queueFull(l *Link) uint64 {
	if l == nil {
		return 0
	}
	n := l.QueueFull
	if v.status == nil {
		return n
	}
	for _, limit := range v.status.Limits {
		if limit.What == "daemon-packets" {
			n -= min(n, limit.Refused)
		}
	}
	return n
}

func (v *visit) uplink(name string) {
	const check = "uplink"
	switch l := v.link(name); {
	case l == nil:
		v.fail(check, "name the interface toward IPv4 in the key uplink (there are "+v.linkNames()+"), or make it: natlessd waits for it",
			"there is no interface %s", name)
	case !l.Up:
		v.fail(check, "ip link set "+name+" up", "%s is down", name)
	case l.Bridge != "":
		v.ok(check, "%s is a port of bridge %s, which is used instead", name, l.Bridge)
	default:
		v.ok(check, "%s is up", name)
	}
}

// linkNames are the interfaces that an uplink may be.
func (v *visit) linkNames() string {
	links, _ := v.Host.Links()
	var names []string
	for _, l := range links {
		if l.Name != "lo" && l.Name != v.deviceName() {
			names = append(names, l.Name)
		}
	}
	return words.Some(names, 8)
}

// uplinkInUse is the uplink, or the bridge that it is a port of.
func (v *visit) uplinkInUse() string {
	if l := v.link(v.Config.Uplink); l != nil && l.Bridge != "" {
		return l.Bridge
	}
	return v.Config.Uplink
}

// sysctls are those that natlessd sees to, or that the operator has to.
func (v *visit) sysctls() {
	const check = "sysctls"
	if v.Config == nil {
		return
	}
	device := v.Config.Device.Name
	needed := map[string]string{"net/ipv6/conf/all/forwarding": "1"}
	if v.link(device) != nil {
		needed["net/ipv4/conf/"+device+"/forwarding"] = "1"
		needed["net/ipv6/conf/"+device+"/disable_ipv6"] = "0"
	}
	if u := v.uplinkInUse(); u != "" && v.link(u) != nil {
		needed["net/ipv4/conf/"+u+"/forwarding"] = "1"
	}
	var wrong []string
	for _, key := range slices.Sorted(maps.Keys(needed)) {
		if v.Host.Sysctl(key) != needed[key] {
			wrong = append(wrong, strings.ReplaceAll(key, "/", ".")+"="+needed[key])
		}
	}
	switch {
	case wrong == nil:
		v.ok(check, "forwarding is on where it is needed")
	case v.status == nil && v.Config.ManageSysctls && v.readOnly():
		v.fail(check, "run sysctl -w "+strings.Join(wrong, " ")+" where they may be set, such as on this container's host, or mount "+
			"/proc/sys read-write here",
			"forwarding needs other sysctls, and %s is read-only", v.Config.SysctlDir)
	case v.status == nil && v.Config.ManageSysctls:
		v.ok(check, "natlessd will set %s when it starts", strings.Join(wrong, " "))
	default:
		v.fail(check, "sysctl -w "+strings.Join(wrong, " "), "forwarding needs other sysctls: it is off where it is needed")
	}
	v.delays()
	if u := v.uplinkInUse(); u != "" && v.Host.Sysctl("net/ipv6/conf/"+u+"/accept_ra") == "1" &&
		v.Host.Sysctl("net/ipv6/conf/all/forwarding") == "1" &&
		v.Host.Sysctl("net/ipv6/conf/"+u+"/forwarding") == "1" {
		v.warn(check, "sysctl -w net.ipv6.conf."+u+".accept_ra=2, if this host gets its addresses or default route that way",
			"%s ignores router advertisements, since the host forwards", u)
	}
}

// readOnly says whether the file system is so where natlessd sets sysctls.
func (v *visit) readOnly() bool {
	return errors.Is(v.Host.Settable(filepath.Join(v.Config.SysctlDir, "net/ipv6/conf/all/forwarding")), syscall.EROFS)
}

// routes asks the kernel where packets for us go: a route that is longer than
// ours, or a rule before it, would lead them elsewhere.
func (v *visit) routes() {
	const check = "routes"
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if device, err := v.Host.RouteTo(loopback); err != nil || device != "lo" {
		v.fail(check, "ip rule add pref 0 lookup local (natlessd does so when it starts, ends or runs with --cleanup)",
			"the host has no address of its own: no policy rule looks up the local table (ip rule)")
	}
	if v.Config == nil || v.link(v.Config.Device.Name) == nil {
		return
	}
	c := v.Config
	toUs := map[string]netip.Addr{"addresses.ipv4": c.Addresses.IPv4, "addresses.ipv6": c.Addresses.IPv6}
	if c.Prefix.IsValid() {
		toUs["prefix"] = inPrefix(c.Prefix)
	}
	held, _ := v.Host.Held() // what goes to the host's own, or to a gateway, does not come to us
	for i, m := range c.Mappings {
		if i < 100 { // enough to see what is the matter
			toUs[fmt.Sprintf("mappings[%d].ipv4", i)] = firstFree(m.IPv4, held)
		}
	}
	for i, p := range c.Pools {
		if p.IPv4.Prefix.IsValid() {
			toUs[fmt.Sprintf("pools[%d].ipv4", i)] = firstFree(p.IPv4.Prefix, held)
		}
	}
	v.edge(toUs)
	for _, what := range slices.Sorted(maps.Keys(toUs)) {
		switch device, err := v.Host.RouteTo(toUs[what]); {
		case err != nil:
			v.fail(check, "ip route show proto 110 shows natlessd's own; its log says why one is missing", "%s: no route to %v: %v", what,
				toUs[what], err)
		case device != c.Device.Name:
			v.fail(check, fmt.Sprintf("ip route get %v, ip rule: remove what stands before natlessd's route", toUs[what]),
				"%s: %v goes to %s and not to %s", what, toUs[what], device, c.Device.Name)
		}
	}
	v.routesToWorkloads(held)
	if v.sound(check) {
		v.ok(check, "%d addresses of natless lead to %s, and those of workloads do not", len(toUs), c.Device.Name)
	}
}

// firstFree is the first address of a prefix that nobody holds, or the first.
func firstFree(p netip.Prefix, held map[netip.Addr]string) netip.Addr {
	for a := p.Addr(); p.Contains(a); a = a.Next() {
		if held[a] == "" {
			return a
		}
	}
	return p.Addr()
}

// routesToWorkloads must not lead back to the device.
func (v *visit) routesToWorkloads(held map[netip.Addr]string) {
	for _, w := range v.workloads[:min(len(v.workloads), maxContainers)] {
		device, err := v.Host.RouteTo(w.Address)
		if own := v.Config.Device.Name; err == nil && device != own && held[w.Address] == "" { // the host's own is shared, others' is told
			v.fail("routes", fmt.Sprintf("ip route get %v, ip rule: remove what stands before natlessd's route", w.Address),
				"workload %s: %v goes to %s and not to %s", w.Key, w.Address, device, own)
		}
		for _, a := range w.Request.IPv6[:min(1, len(w.Request.IPv6))] {
			switch device, err := v.Host.RouteTo(a); {
			case err != nil:
				v.fail("routes", "the plugin before natless-cni makes it: is the container alive?", "workload %s: no route to %v: %v", w.Key, a, err)
			case device == v.Config.Device.Name:
				v.fail("routes", "give the workload an address outside the prefix", "workload %s: %v leads back to %s", w.Key, a, device)
			}
		}
	}
}

// edge looks for the way to the fabric's relays, and adds the host's addresses there to
// those that must lead to natlessd.
func (v *visit) edge(toUs map[string]netip.Addr) {
	if !v.Config.Edge.Enabled {
		return
	}
	relays := inPrefix(v.Config.Edge.Prefix)
	switch device, err := v.Host.RouteTo(relays); {
	case err != nil:
		v.fail("routes", "relays, or a routing daemon for them, announce it", "edge.prefix: no route to %v: %v", relays, err)
	case device == v.Config.Device.Name:
		v.fail("routes", fmt.Sprintf("ip route get %v: remove what leads there", relays), "edge.prefix: %v leads back to %s", relays, device)
	}
	var have []netip.Prefix
	for _, p := range v.Config.Pools {
		if p.IPv4.Prefix.IsValid() {
			have = append(have, p.IPv4.Prefix)
		}
	}
	for _, w := range v.workloads[:min(len(v.workloads), maxContainers)] {
		have = append(have, netip.PrefixFrom(w.Address, 32)) // of what the fleet has lent
	}
	for i, b := range v.Config.EdgeBlocks(have) {
		if i < 100 {
			toUs["edge: the address for "+b.IPv4.String()] = b.IPv6.Addr()
		}
	}
}

// inPrefix is an address that stands for one outside, 192.0.2.1 (RFC 6052 2.4).
func inPrefix(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As16()
	if p.Bits() == 96 {
		copy(a[12:], []byte{192, 0, 2, 1})
	} else {
		a[15] = 1 // the suffix means nothing
	}
	return netip.AddrFrom16(a)
}
