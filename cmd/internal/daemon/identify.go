//go:build linux

package daemon

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
)

// identify says who besides workloads has an address or a port of it (-1: any), and
// what else there is to say of the address.
func (d *Daemon) identify(c *config.Config, a netip.Addr, port int) (owners []api.Owner, detail string) {
	if o, ok := d.ownAddresses(c, a); ok {
		return []api.Owner{o}, ""
	}
	if a.Is6() {
		return d.identify6(a)
	}
	owners = append(d.explicit4(a, port), d.customers4(a, port)...)
	if why := (*d.reloader.taken.Load())[a]; why != "" && len(owners) == 0 && (port < 0 || !d.host.Assigned(a, uint16(port))) {
		owners = append(owners, api.Owner{Kind: api.OwnerHost, Detail: d.heldBy(a, why), Address: a})
	}
	for _, b := range d.keeper.Blocks().Blocks {
		if b.IPv4.Contains(a) {
			return owners, fmt.Sprintf("it is in pool %s, in the block %s that the fleet has lent this host (lease %d)", b.Pool, b.IPv4, b.Lease)
		}
	}
	for _, p := range c.Pools {
		if p.IPv4.Prefix.IsValid() && p.IPv4.Prefix.Contains(a) {
			return owners, fmt.Sprintf("it is in pool %s", p.Name)
		}
	}
	if why := d.mapRules().Describe(a, uint16(max(port, 0))); why != "" && len(owners) == 0 {
		return owners, "it is " + why
	}
	for _, p := range c.Relay.IPv4 {
		if p.Contains(a) {
			return owners, fmt.Sprintf("it is in %v (relay.ipv4), and in no block that this relay was told of", p)
		}
	}
	return owners, ""
}

// heldBy is whose an address on the host's links is.
func (d *Daemon) heldBy(a netip.Addr, why string) string {
	if d.host.State().Routes.HostPool.Addr == a {
		return why + " (ports of it that no workload has are the host's)"
	}
	return why
}

// ownAddresses are natlessd's.
func (d *Daemon) ownAddresses(c *config.Config, a netip.Addr) (api.Owner, bool) {
	o := api.Owner{Kind: api.OwnerTranslator, Name: "natlessd", Address: c.Addresses.IPv4, IPv6: []netip.Addr{c.Addresses.IPv6}}
	switch {
	case a == c.Addresses.IPv4 || a == c.Addresses.IPv6:
		o.Detail = "the translator's own (addresses): it answers ping there, and sends its ICMP errors from there"
	case c.ICMPSourcePool.IPv4.IsValid() && c.ICMPSourcePool.IPv4.Contains(a) ||
		c.ICMPSourcePool.IPv6.IsValid() && c.ICMPSourcePool.IPv6.Contains(a):
		o.Detail = "a source of ICMP errors (icmp_source_pool): they are about hops without an address in this family"
	default:
		return o, false
	}
	return o, true
}

// identify6 finds the explicit mapping of an IPv6 address, or what it stands for.
func (d *Daemon) identify6(a netip.Addr) ([]api.Owner, string) {
	table := d.host.Table()
	at := mapping.Addr6From(a)
	if e := table.Lookup6(at); e != nil {
		if d.keeper.Assigned(e.Mapping()) {
			return nil, ""
		}
		return []api.Owner{d.explicit(e.Mapping(), a, mapping.Addr4(e.To4(at)))}, ""
	}
	if owners := d.customer6(a); owners != nil {
		return owners, ""
	}
	if v4, ok := table.Extract(at); ok {
		return outside(a, mapping.Addr4(v4), "workloads see", table.Prefix()), ""
	}
	if table = d.host.Translator.EdgeTable(); table != nil {
		if v4, ok := table.Extract(at); ok {
			return outside(a, mapping.Addr4(v4), "the fabric has", table.Prefix()), ""
		}
	}
	return nil, ""
}

// outside is an address outside, as somebody has it under a prefix.
func outside(a, out netip.Addr, whose string, prefix netip.Prefix) []api.Owner {
	return []api.Owner{{Kind: api.OwnerPrefix, Address: out, IPv6: []netip.Addr{a},
		Detail: fmt.Sprintf("%v outside, as %s it under %v", out, whose, prefix)}}
}

// explicit4 finds the explicit mappings of an IPv4 address.
func (d *Daemon) explicit4(a netip.Addr, port int) (owners []api.Owner) {
	table, at := d.host.Table(), mapping.Addr4From(a)
	e := table.Lookup4(at)
	switch {
	case e == nil:
		return nil
	case !e.Shared():
		if m := e.Mapping(); !d.keeper.Assigned(m) {
			owners = append(owners, d.explicit(m, e.To6(at).Addr(), a))
		}
		return owners
	case port >= 0:
		if e = table.Port(e, at, uint16(port)); e != nil && !d.keeper.Assigned(e.Mapping()) {
			owners = append(owners, d.explicit(e.Mapping(), e.To6(at).Addr(), a))
		}
		return owners
	}
	for e := range table.Entries() {
		if m := e.Mapping(); m.IPv4.Contains(a) && !d.keeper.Assigned(m) {
			owners = append(owners, d.explicit(m, e.To6(at).Addr(), a))
		}
	}
	return owners
}

func (d *Daemon) explicit(m mapping.Mapping, ipv6, ipv4 netip.Addr) api.Owner {
	o := api.Owner{Kind: api.OwnerMapping, IPv6: []netip.Addr{ipv6}, Address: ipv4, Ports: m.Ports,
		Detail: fmt.Sprintf("an explicit mapping of the configuration: %v", m)}
	if rule, ok := d.reloader.host.relay.rule(m); ok {
		o.Kind = api.OwnerBlock
		o.Detail = fmt.Sprintf("block %v, lent to the host that has %v in the fabric (lease %d): this relay leads it there", rule.IPv4, rule.IPv6, rule.Lease)
	}
	return o
}

// leads is the IPv4 address that relays lead to one of this host's in a fabric.
func (d *Daemon) leads(a netip.Addr) (netip.Addr, bool) {
	table := d.host.Translator.EdgeTable()
	if table == nil || !a.Is6() {
		return netip.Addr{}, false
	}
	at := mapping.Addr6From(a)
	e := table.Lookup6(at)
	if e == nil {
		return netip.Addr{}, false
	}
	return mapping.Addr4(e.To4(at)), true
}
