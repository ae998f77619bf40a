//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
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

// uplinkIPv4 is the first global IPv4 address of an interface.
func uplinkIPv4(name string) (netip.Addr, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("uplink %s: %w", name, err)
	}
	all, err := i.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("uplink %s: %w", name, err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("uplink %s has no IPv4 address to share: give it one, or remove the pool", name)
}

// someUplink stands for the address when there is only a file to check.
func someUplink(string) (netip.Addr, error) { return netip.AddrFrom4([4]byte{255, 255, 255, 254}), nil }
