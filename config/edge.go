package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/natless/natless/translator/mapping"
)

// Edge makes this host the edge of a fabric without IPv4: what its workloads send as IPv4
// leaves as IPv6, from an address of the host for the block that it was lent, and relays
// make it IPv4.
type Edge struct {
	Enabled bool         `yaml:"enabled" restart:"yes"`
	Prefix  netip.Prefix `yaml:"prefix"` // RFC 6052, of the fabric
	Host    netip.Prefix `yaml:"host"`   // has the host's address for each IPv4 address, in its last 32 bits
	Blocks  []Mapping    `yaml:"blocks"` // with other addresses than these
	MTU     int          `yaml:"mtu"`    // of the fabric, in bytes
}

// EdgeBlocks are the host's addresses on the fabric, for workloads that have some of these
// IPv4 addresses.
func (c *Config) EdgeBlocks(of []netip.Prefix) (all []mapping.Mapping) {
	if !c.Edge.Enabled {
		return nil
	}
	for _, b := range c.Edge.Blocks {
		all = append(all, b.translated())
	}
	if !c.Edge.Host.IsValid() {
		return all
	}
	var lent blocks
	for _, p := range of {
		lent.add(p)
	}
	for _, p := range lent.prefixes() {
		if slices.ContainsFunc(c.Edge.Blocks, func(b Mapping) bool { return b.IPv4 == p }) {
			continue
		}
		host, four := c.Edge.Host.Addr().As16(), p.Addr().As4()
		copy(host[12:], four[:])
		all = append(all, mapping.Mapping{IPv4: p, IPv6: netip.PrefixFrom(netip.AddrFrom16(host), 96+p.Bits())})
	}
	return all
}

// UplinkMTU is what the uplink's link must take, and the key that says it.
func (c *Config) UplinkMTU() (key string, mtu int) {
	if c.Edge.Enabled {
		return "edge.mtu", c.Edge.MTU
	}
	return "mtu.ipv4", c.MTU.IPv4
}

// InYAML is how a number is written for a key of two words.
func InYAML(key string, n int) string {
	outer, inner, _ := strings.Cut(key, ".")
	return fmt.Sprintf("%s: {%s: %d}", outer, inner, n)
}

func (v validator) edge() {
	e := v.Edge
	v.between("edge.mtu", e.MTU, 1280, 65535)
	if !e.Enabled {
		return
	}
	if !e.Prefix.IsValid() {
		v.check(false, "edge.prefix", "missing: by which prefix (RFC 6052) do relays reach IPv4?")
		return
	}
	if err := mapping.ValidatePrefix(e.Prefix); err != nil {
		v.fail("edge.prefix", err)
	}
	v.check(v.Prefix.IsValid(), "prefix", "missing: at the edge the workloads need a prefix of their own")
	v.check(!v.Prefix.IsValid() || !v.Prefix.Overlaps(e.Prefix), "edge.prefix",
		"%s overlaps the workloads' prefix, %s: what leaves would come straight back", e.Prefix, v.Prefix)
	v.check(!e.Prefix.Contains(v.Addresses.IPv6), "addresses.ipv6", "%s lies in edge.prefix, where relays answer", v.Addresses.IPv6)
	v.edgeAlone()
	v.check(e.Host.IsValid() || len(e.Blocks) > 0, "edge.host",
		"missing: by which addresses do relays reach this host? give them here, or in edge.blocks")
	if e.Host.IsValid() {
		v.check(e.Host.Bits() == 96, "edge.host", "%s must be a /96, of which the last 32 bits are the IPv4 address", e.Host)
		v.edgeSide("edge.host", e.Host)
	}
	v.edgeBlocks()
}

// edgeAlone refuses what asks for an IPv4 network at the host.
func (v validator) edgeAlone() {
	const none = "at the edge the network has no IPv4: "
	v.check(!v.Relay.Enabled(), "relay.ipv4", "a relay has IPv4, and an edge has not: which is this host?")
	v.check(len(v.MAP.Rules) == 0, "map", "a border relay has IPv4, and an edge has not: which is this host?")
	v.check(len(v.XDP) == 0, "xdp", "is for relays: at the edge the fast path is at traffic control")
	v.check(len(v.Uplinks) == 0, "uplinks", none+"name the interfaces in fabric")
	v.check(v.Inside.Device == "", "inside", none+"workloads cannot have IPv4 inside yet")
	v.check(v.MTU.IPv4 == Default().MTU.IPv4, "mtu.ipv4", none+"edge.mtu is what counts")
	v.check(!v.ICMPSourcePool.IPv4.IsValid(), "icmp_source_pool.ipv4", none+"relays choose the sources of such errors")
	for i, p := range v.Pools {
		v.check(!p.IPv4.Uplink, fmt.Sprintf("pools[%d].ipv4", i), none+"the host has no address to share")
	}
}

// edgeSide looks at IPv6 addresses of the host on the fabric.
func (v validator) edgeSide(key string, p netip.Prefix) {
	switch {
	case !p.Addr().Is6() || !usable(p):
		v.check(false, key, "%s is not an IPv6 prefix that hosts may have", p)
	case p.Contains(v.Addresses.IPv6):
		v.check(false, key, "%s covers addresses.ipv6, which is the translator's own", p)
	case v.Prefix.Overlaps(p):
		v.check(false, key, "%s overlaps the prefix, %s", p, v.Prefix)
	case v.Edge.Prefix.Overlaps(p):
		v.check(false, key, "%s overlaps edge.prefix, %s", p, v.Edge.Prefix)
	}
}

func (v validator) edgeBlocks() {
	for i, b := range v.Edge.Blocks {
		key := "edge.blocks[" + strconv.Itoa(i) + "]"
		if !b.IPv4.IsValid() || !b.IPv4.Addr().Is4() || !usable(b.IPv4) {
			v.check(false, key+".ipv4", "%s is not an IPv4 prefix that hosts may have", b.IPv4)
			continue
		}
		if !b.IPv6.IsValid() {
			v.check(false, key+".ipv6", "missing: by which address do relays reach %s?", b.IPv4)
			continue
		}
		v.edgeSide(key+".ipv6", b.IPv6)
		v.check(b.IPv4.IsSingleIP() == b.IPv6.IsSingleIP() && 32-b.IPv4.Bits() <= 128-b.IPv6.Bits(), key+".ipv6",
			"%s has not an address for each of %s (RFC 7757 3.3)", b.IPv6, b.IPv4)
		for j, other := range v.Edge.Blocks[:i] {
			v.check(!other.IPv6.Overlaps(b.IPv6), key+".ipv6", "%s overlaps that of edge.blocks[%d]", b.IPv6, j)
		}
	}
	if _, err := mapping.New(netip.Prefix{}, v.EdgeBlocks(nil)); err != nil {
		v.fail("edge.blocks", err)
	}
	if v.Edge.Host.IsValid() {
		return
	}
	for i, p := range v.Pools {
		key := fmt.Sprintf("pools[%d]", i)
		v.check(p.From != FromFleet, key+".from", "edge.host is missing, which has an address for whatever block is lent")
		v.check(!p.Static() || v.Edge.reaches(p.IPv4.Prefix), key+".ipv4",
			"%s is in none of edge.blocks: nothing could come back to its workloads", p.IPv4)
	}
	for _, p := range v.Mapped4() {
		v.check(v.Edge.reaches(p), "edge.blocks", "none has %s, which mappings have: nothing could come back to it", p)
	}
}

// reaches reports whether relays reach all of some IPv4 addresses.
func (e Edge) reaches(p netip.Prefix) bool {
	return slices.ContainsFunc(e.Blocks, func(b Mapping) bool { return b.IPv4.Bits() <= p.Bits() && b.IPv4.Contains(p.Addr()) })
}
