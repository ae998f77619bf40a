//go:build linux

package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/ports"
)

// Pools puts the pools of a configuration into the registry's terms.
// uplink finds the address of an interface.
func Pools(c *config.Config, uplink func(name string) (netip.Addr, error)) ([]registry.Pool, error) {
	pools := make([]registry.Pool, len(c.Pools))
	for i, p := range c.Pools {
		prefix := p.IPv4.Prefix // none of a pool of blocks
		if p.IPv4.Uplink {
			a, err := uplink(c.Uplink)
			if err != nil {
				return nil, fmt.Errorf("pools[%d]: %w: give the interface an IPv4 address, or the pool a prefix of its own", i, err)
			}
			prefix = netip.PrefixFrom(a, 32)
		}
		pools[i] = registry.Pool{Name: p.Name, IPv4: prefix, Uplink: p.IPv4.Uplink, Fleet: p.From == config.FromFleet, Whole: p.WholeAddress, Inside: p.Inside,
			PortsPerWorkload: p.PortsPerWorkload, Ports: ports.Set(p.Ports), Reserved: ports.Set(p.ReservedPorts), Cooldown: p.Cooldown}
	}
	return pools, registry.CheckPools(pools)
}

// SomeUplink stands for the address when there is only a file to check.
func SomeUplink(string) (netip.Addr, error) { return netip.AddrFrom4([4]byte{255, 255, 255, 254}), nil }

// reach is what must lead to the translator: the pools, and what workloads keep
// that is in none any more.
type reach struct {
	pools []registry.Pool
	host  route.HostPool // the zero value: nobody shares the host's own address
	kept  []netip.Prefix // addresses outside of the pools
}

// reachOf puts pools, and what is assigned outside of them, into the terms of
// the kernel's keeper. own says whether an address is the host's.
func reachOf(pools []registry.Pool, outside []registry.Share, own func(netip.Addr) bool) reach {
	r := reach{pools: pools}
	for _, p := range pools {
		if p.Uplink {
			r.host = route.HostPool{Addr: p.IPv4.Addr(), Ports: hostPorts(p.Ports)}
		}
	}
	for _, o := range outside {
		switch {
		case o.Address == r.host.Addr:
			r.host.Ports = r.host.Ports.Union(hostPorts(o.Ports))
		case !r.host.Addr.IsValid() && !o.Ports.IsZero() && own(o.Address):
			r.host = route.HostPool{Addr: o.Address, Ports: hostPorts(o.Ports), Stays: true}
		case slices.ContainsFunc(heldPrefixes(pools), func(p netip.Prefix) bool { return p.Contains(o.Address) }): // it is, whole
		default:
			r.kept = append(r.kept, netip.PrefixFrom(o.Address, 32))
		}
	}
	return r
}

// hostPorts are those of a set that somebody can have: nobody has port 0.
func hostPorts(set ports.Set) ports.Set { return set.Subtract(ports.Of(ports.Single(0))) }

// ownAddress says whether the host has an address itself.
func ownAddress(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(n net.Addr) bool {
		p, err := netip.ParsePrefix(n.String())
		return err == nil && p.Addr() == a
	})
}
