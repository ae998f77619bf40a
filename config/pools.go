package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/natless/natless/translator/ports"
)

var poolName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

func (v validator) pools() {
	names := map[string]int{}
	for i, p := range v.Pools {
		key := fmt.Sprintf("pools[%d]", i)
		v.check(poolName.MatchString(p.Name), key+".name", "%q is not a valid name: 1 to 63 of a-z 0-9 . _ -", p.Name)
		if first, taken := names[p.Name]; taken {
			v.fail(key+".name", fmt.Errorf("pools[%d] is called %q too", first, p.Name))
		}
		names[p.Name] = i
		v.between(key+".cooldown", int(p.Cooldown.Seconds()), 0, 7*24*3600)
		v.check(!p.Inside || v.Inside.Device != "", key+".inside", "needs a device: leave the key inside out, or name one there (inside: {device: %s})",
			InsideDevice)
		if p.From == FromFleet {
			v.poolOfFleet(key, p)
		} else {
			v.check(p.LowWatermark == 0 && p.HighWatermark == 0, key, "low_watermark and high_watermark are for pools from: fleet")
			v.poolAddresses(key, i)
		}
		v.poolPorts(key, p)
		v.firstUse(i)
	}
}

// mostSpare bounds the watermarks: a pool's addresses have room for no more.
const mostSpare = 1 << 24

func (v validator) poolOfFleet(key string, p Pool) {
	v.check(p.IPv4 == PoolIPv4{}, key+".ipv4", "%s: the fleet lends the pool its addresses: leave the key out, or from", p.IPv4)
	v.between(key+".low_watermark", p.LowWatermark, 0, mostSpare)
	v.between(key+".high_watermark", p.HighWatermark, p.LowWatermark, mostSpare)
}

func (v validator) poolAddresses(key string, i int) {
	key += ".ipv4"
	p := v.Pools[i]
	if p.IPv4.Uplink {
		v.check(v.Uplink != "", key, "which uplink? set the key uplink to the interface's name")
		v.check(!p.WholeAddress, key, "the host keeps ports of its own address: whole_address cannot be")
		v.check(!p.Ports.IsZero(), join(fmt.Sprintf("pools[%d]", i), "ports"), "missing: which ports of its address does the host give away?")
	} else if q := p.IPv4.Prefix; !q.IsValid() || !q.Addr().Is4() || !usable(q) {
		v.fail(key, fmt.Errorf("%s: must be an IPv4 prefix that hosts may have, or uplink", p.IPv4))
		return
	} else {
		v.check(!p.IPv4.Prefix.Contains(v.Addresses.IPv4), key, "%s covers addresses.ipv4, which is the translator's own", p.IPv4)
		source := v.ICMPSourcePool.IPv4
		v.check(!source.IsValid() || !p.IPv4.Prefix.Overlaps(source), key,
			"%s overlaps icmp_source_pool.ipv4 (%s), from which errors of others come: a workload would be blamed for them", p.IPv4, source)
	}
	for j, other := range v.Pools[:i] {
		both := p.IPv4.Uplink && other.IPv4.Uplink
		overlap := p.IPv4.Prefix.IsValid() && other.IPv4.Prefix.IsValid() && p.IPv4.Prefix.Overlaps(other.IPv4.Prefix)
		v.check(!both && !overlap, key, "%s overlaps pools[%d] (%s)", p.IPv4, j, other.IPv4)
	}
	if p.IPv4.Uplink {
		return
	}
	for j, m := range v.Mappings {
		v.check(!m.IPv4.IsValid() || !p.IPv4.Prefix.Overlaps(m.IPv4), key,
			"%s overlaps mappings[%d] (%s), which has its addresses to itself", p.IPv4, j, m.IPv4)
	}
}

func (v validator) poolPorts(key string, p Pool) {
	if p.WholeAddress {
		if !p.Ports.IsZero() || !p.ReservedPorts.IsZero() || p.PortsPerWorkload != 0 {
			v.fail(key+".whole_address", errors.New("excludes ports, reserved_ports and ports_per_workload"))
		}
		return
	}
	if p.IPv4.Uplink && p.Ports.IsZero() {
		return // told already
	}
	free := 0
	if left := p.Assignable(); !left.IsZero() {
		free = left.Longest().Size()
	}
	v.check(p.PortsPerWorkload >= 1, key+".ports_per_workload", "%d is less than 1", p.PortsPerWorkload)
	v.check(p.PortsPerWorkload <= free, key+".ports_per_workload",
		"%d do not fit: the longest run of ports without reserved_ports is %d", p.PortsPerWorkload, free)
}

// Static says that the configuration itself has the pool's addresses: it is neither
// the uplink's nor the fleet's.
func (p Pool) Static() bool { return !p.IPv4.Uplink && p.From == "" }

// CheckBlock says why an IPv4 prefix cannot be a block of a pool, by the rest of the
// configuration; nil: it can.
func (c *Config) CheckBlock(block netip.Prefix) error {
	if !block.IsValid() || !block.Addr().Is4() || block != block.Masked() || !usable(block) {
		return fmt.Errorf("%s: must be an IPv4 prefix that hosts may have", block)
	}
	if block.Contains(c.Addresses.IPv4) {
		return fmt.Errorf("%s covers addresses.ipv4, which is the translator's own", block)
	}
	if source := c.ICMPSourcePool.IPv4; source.IsValid() && block.Overlaps(source) {
		return fmt.Errorf("%s overlaps icmp_source_pool.ipv4 (%s)", block, source)
	}
	for i, p := range c.Pools {
		if p.Static() && p.IPv4.Prefix.Overlaps(block) {
			return fmt.Errorf("%s overlaps pools[%d] (%s)", block, i, p.IPv4)
		}
	}
	if key, found := c.MAP.overlaps(block); found {
		return fmt.Errorf("%s overlaps %s", block, key)
	}
	for _, mapped := range c.Mapped4() {
		if mapped.Overlaps(block) {
			return fmt.Errorf("%s overlaps %s, which mappings or mapped_blocks have", block, mapped)
		}
	}
	return nil
}

// Assignable is the ports that the pool hands out of itself.
func (p Pool) Assignable() ports.Set { return p.Ports.Subtract(p.ReservedPorts) }
