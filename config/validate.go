package config

import (
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/natless/natless/translator/budget"
	"github.com/natless/natless/translator/mapping"
)

// validate tells what is wrong with a complete configuration, all of it.
func validate(c *Config, report func(Error)) {
	v := validator{c, report}
	v.device()
	v.udpGRO()
	v.prefix()
	v.addresses()
	v.icmpErrors()
	v.mtu()
	v.explicitMappings()
	v.pools()
	v.services()
	v.metrics()
	v.flows()
	v.relay()
	v.mapRules()
	v.edge()
	v.policies()
	v.shedding()
}

// validator reports what is wrong; where an error names no file it is about the
// configuration itself, and its key says where.
type validator struct {
	*Config
	report func(Error)
}

func (v validator) fail(key string, err error) { v.report(Error{Key: key, Err: err}) }

func (v validator) check(ok bool, key, format string, args ...any) {
	if !ok {
		v.fail(key, fmt.Errorf(format, args...))
	}
}

func (v validator) between(key string, n, low, high int) {
	v.check(low <= n && n <= high, key, "%d is not between %d and %d", n, low, high)
}

func (v validator) device() {
	v.interfaceName("device.name", v.Device.Name)
	v.between("device.mtu", v.Device.MTU, 1280, 65535)
	if v.Device.Queues != AutoQueues {
		v.between("device.queues", int(v.Device.Queues), 1, 256) // MAX_TAP_QUEUES of the kernel
	}
	if v.Inside.Device != "" {
		v.interfaceName("inside.device", v.Inside.Device)
	}
	v.check(v.Inside.Device != v.Device.Name, "inside.device", "%s is device.name, and another device is needed", v.Device.Name)
	v.check(v.Inside.Device == "" || v.Inside.Device != v.Uplink, "inside.device", "%s is the uplink", v.Uplink)
	if v.Uplink != "" {
		v.interfaceName("uplink", v.Uplink)
		v.check(v.Uplink != v.Device.Name, "uplink", "%s is the translator's own device", v.Uplink)
	}
	v.interfaces("uplinks", v.Uplinks)
	v.check(len(v.AllUplinks()) <= MaxInterfaces, "uplinks", "%d uplinks are more than %d", len(v.AllUplinks()), MaxInterfaces)
	v.interfaces("fabric", v.Fabric)
	v.check(len(v.Fabric) <= MaxInterfaces, "fabric", "%d interfaces are more than %d", len(v.Fabric), MaxInterfaces)
	v.xdp()
}

func (v validator) xdp() {
	v.interfaces("xdp", v.XDP)
	v.check(len(v.XDP) == 0 || v.FastPath != FastPathOff, "xdp", "fast_path is off, and this is a part of it")
	for i, name := range v.XDP {
		v.check(slices.Contains(v.AllUplinks(), name) || slices.Contains(v.Fabric, name), fmt.Sprintf("xdp[%d]", i),
			"%s is neither an uplink nor of the fabric", name)
	}
}

// interfaces looks at a list of names.
func (v validator) interfaces(key string, names []string) {
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", key, i)
		v.interfaceName(at, name)
		v.check(name != v.Device.Name && name != v.Inside.Device, at, "%s is the translator's own device", name)
		v.check(!slices.Contains(names[:i], name), at, "%s is there twice", name)
	}
}

func (v validator) udpGRO() {
	for i, pattern := range v.UDPGRO {
		_, err := path.Match(pattern, "eth0")
		ok := err == nil && pattern != "" && !strings.ContainsAny(pattern, "/: \t\n")
		v.check(ok, fmt.Sprintf("udp_gro[%d]", i), "%q is neither a name of network interfaces nor a pattern of some (veth*)", pattern)
	}
}

// interfaceName holds a name against the kernel's dev_valid_name.
func (v validator) interfaceName(key, name string) {
	ok := 0 < len(name) && len(name) < 16 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n%")
	v.check(ok, key, "%q is not a valid name of a network interface (1 to 15 letters and digits)", name)
}

func (v validator) icmpErrors() {
	e := v.ICMPErrors
	v.between("icmp_errors.rate", e.Rate, 1, budget.MaxRate)
	v.between("icmp_errors.burst", e.Burst, 1, budget.MaxRate)
	v.between("icmp_errors.total_rate", e.TotalRate, e.Rate, budget.MaxRate)
	v.between("icmp_errors.total_burst", e.TotalBurst, e.Burst, budget.MaxRate)
}

func (v validator) mtu() {
	v.between("mtu.ipv4", v.MTU.IPv4, 68, 65535)   // RFC 791 section 3.2
	v.between("mtu.ipv6", v.MTU.IPv6, 1280, 65535) // RFC 8200 section 5
	if v.MTU.IPv6 >= 1280 {
		v.between("lowest_ipv6_mtu", v.LowestIPv6MTU, 1280, v.MTU.IPv6)
	}
}

var wellKnown = netip.MustParsePrefix("64:ff9b::/96")

func (v validator) prefix() {
	if !v.Prefix.IsValid() {
		v.check(len(v.Mappings) > 0 || len(v.MappingsFile) > 0 || len(v.Pools) > 0, "", "nothing to translate: give a prefix, mappings or pools")
	} else if err := mapping.ValidatePrefix(v.Prefix); err != nil {
		v.fail("prefix", err)
	}
}

func (v validator) addresses() {
	v.own("addresses.ipv4", v.Addresses.IPv4, v.Addresses.IPv4.Is4(), "IPv4")
	v.own("addresses.ipv6", v.Addresses.IPv6, v.Addresses.IPv6.Is6() && !v.Addresses.IPv6.Is4In6(), "IPv6")
	pool := v.ICMPSourcePool
	v.check(!pool.IPv4.IsValid() || pool.IPv4.Addr().Is4() && usable(pool.IPv4), "icmp_source_pool.ipv4",
		"%s is not an IPv4 prefix to send from", pool.IPv4)
	v.check(!pool.IPv6.IsValid() || pool.IPv6.Addr().Is6() && usable(pool.IPv6), "icmp_source_pool.ipv6",
		"%s is not an IPv6 prefix to send from", pool.IPv6)
	v.wellKnown("addresses.ipv6", v.Addresses.IPv6)
	if pool.IPv6.IsValid() {
		v.wellKnown("icmp_source_pool.ipv6", pool.IPv6.Addr())
	}
}

func (v validator) own(key string, a netip.Addr, ok bool, family string) {
	switch {
	case !a.IsValid():
		v.fail(key, fmt.Errorf("missing: the translator needs an %s address of its own, to answer and to send ICMP errors from", family))
	case !ok:
		v.fail(key, fmt.Errorf("%s is not %s", a, family))
	default:
		v.check(usable(netip.PrefixFrom(a, a.BitLen())), key, "%s is not an address of a host", a)
	}
}

// wellKnown holds an address against RFC 6052 section 3.1: the well-known
// prefix does not stand for IPv4 addresses that are not global.
func (v validator) wellKnown(key string, a netip.Addr) {
	if v.AllowNonGlobal || v.Prefix != wellKnown || !wellKnown.Contains(a) {
		return
	}
	b := a.As16()
	v4 := netip.AddrFrom4([4]byte(b[12:]))
	v.check(global(v4), key,
		"%s stands for %s, which is not global and has no place under %s (RFC 6052 section 3.1): choose another, another prefix, or set allow_non_global", a, v4, wellKnown)
}

func (v validator) services() {
	v.check(filepath.IsAbs(v.API.Socket) && len(v.API.Socket) < 108, "api.socket", "%q is not an absolute path of less than 108 bytes",
		v.API.Socket) // sizeof sun_path
	v.check(v.API.Group != "", "api.group", "missing")
	v.check(filepath.IsAbs(v.SysctlDir), "sysctl_dir", "%q is not an absolute path", v.SysctlDir)
	v.check(filepath.IsAbs(v.Registry.Path), "registry.path", "%q is not an absolute path", v.Registry.Path)
	v.between("registry.history", v.Registry.History, 0, 100_000_000)
	v.check(!v.DNS64.Enabled || v.Prefix.IsValid(), "dns64.enabled", "there is no prefix to synthesise addresses with")
	v.between("dns64.cache", v.DNS64.Cache, 0, 10_000_000)
	for i, u := range v.DNS64.Upstreams {
		v.check(u.Port() != 0 && u.Addr() != v.Addresses.IPv6 && u.Addr() != v.Addresses.IPv4,
			"dns64.upstreams["+strconv.Itoa(i)+"]", "%s is not the address and port of another server", u)
	}
	for i, p := range v.DNS64.Exclude {
		v.check(p.Addr().Is6(), "dns64.exclude["+strconv.Itoa(i)+"]", "%s is not IPv6", p)
	}
	for i, p := range v.DNS64.Clients {
		v.check(p.Addr().Is6(), "dns64.clients["+strconv.Itoa(i)+"]", "%s is not IPv6", p)
	}
	v.check(v.Health.Port != 53 || !v.DNS64.Enabled, "health.port", "53 is DNS64's")
}
