package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

// Unusable says what can never work on a host on whose links others hold
// addresses, each for a reason ("a gateway on eth0"): the translator's own among
// them, a pool with nothing left, a mapping of such an address. What is held
// inside a larger pool or mapping is only left out there, and no error.
func (c *Config) Unusable(held map[netip.Addr]string) error {
	var errs []error
	refuse := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %w", key, fmt.Errorf(format, args...)))
	}
	own := func(key string, a netip.Addr) {
		if why := held[a]; why != "" {
			refuse(key, "%v is %s: the translator needs an address that nobody else has", a, why)
		}
	}
	own("addresses.ipv4", c.Addresses.IPv4)
	own("addresses.ipv6", c.Addresses.IPv6)
	if p := c.ICMPSourcePool.IPv4; p.IsValid() && p.IsSingleIP() {
		own("icmp_source_pool.ipv4", p.Addr())
	}
	for i, p := range c.Pools {
		if !p.Static() || !p.IPv4.Prefix.IsValid() {
			continue
		}
		if in := within(held, p.IPv4.Prefix); len(in) > 0 && len(in) == 1<<(32-p.IPv4.Prefix.Bits()) {
			refuse(fmt.Sprintf("pools[%d].ipv4", i), "%v: nothing is left to assign: %v is %s; to share the host's own address "+
				"with workloads, say ipv4: uplink",
				p.IPv4, in[0], held[in[0]])
		}
	}
	for _, m := range c.heldMappings(held) {
		refuse("mappings", "%v: %v is %s", m, m.IPv4.Addr(), held[m.IPv4.Addr()])
	}
	return errors.Join(errs...)
}

// heldMappings are the explicit mappings of a single address that somebody holds.
func (c *Config) heldMappings(held map[netip.Addr]string) (found []mapping.Mapping) {
	table, err := c.Table()
	if err != nil {
		return nil
	}
	for _, a := range slices.SortedFunc(maps.Keys(held), netip.Addr.Compare) {
		if !a.Is4() {
			continue
		}
		if e := table.Lookup4(mapping.Addr4From(a)); e != nil && e.Mapping().IPv4.IsSingleIP() {
			found = append(found, e.Mapping())
		}
	}
	return found
}

// Covered are the held addresses that pools or mappings cover. Nobody is given
// one of these.
func (c *Config) Covered(held map[netip.Addr]string) []netip.Addr {
	all := slices.Clone(c.Mapped4())
	for _, p := range c.Pools {
		if p.Static() {
			all = append(all, p.IPv4.Prefix)
		}
	}
	return within(held, all...)
}

func within(held map[netip.Addr]string, prefixes ...netip.Prefix) (in []netip.Addr) {
	for a := range held {
		if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
			in = append(in, a)
		}
	}
	slices.SortFunc(in, netip.Addr.Compare)
	return in
}
