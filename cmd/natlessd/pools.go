//go:build linux

package main

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
)

// registryPools puts the pools of a configuration into the registry's terms.
// uplink finds the address of an interface.
func registryPools(c *config.Config, uplink func(name string) (netip.Addr, error)) ([]registry.Pool, error) {
	pools := make([]registry.Pool, len(c.Pools))
	for i, p := range c.Pools {
		prefix := p.IPv4.Prefix
		if p.IPv4.Uplink {
			a, err := uplink(c.Uplink)
			if err != nil {
				return nil, fmt.Errorf("pools[%d]: %w", i, err)
			}
			prefix = netip.PrefixFrom(a, 32)
		}
		pools[i] = registry.Pool{Name: p.Name, IPv4: prefix, Uplink: p.IPv4.Uplink, Whole: p.WholeAddress,
			PortsPerWorkload: p.PortsPerWorkload, Ports: mapping.PortSet(p.Ports), Reserved: mapping.PortSet(p.ReservedPorts), Cooldown: p.Cooldown}
	}
	return pools, registry.CheckPools(pools)
}

// someUplink stands for the address when there is only a file to check.
func someUplink(string) (netip.Addr, error) { return netip.AddrFrom4([4]byte{255, 255, 255, 254}), nil }

// hostPool is the pool of the host's own address in the terms of the kernel's
// keeper; the zero value when there is none.
func hostPool(pools []registry.Pool) (h route.HostPool) {
	for _, p := range pools {
		if !p.Uplink {
			continue
		}
		h.Addr = p.IPv4.Addr()
		for _, r := range p.Ports {
			h.Ports = append(h.Ports, route.PortRange{First: max(r.First, 1), Last: r.Last}) // nobody has port 0
		}
	}
	return h
}
