package config

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Translator is the configuration of the translator. key authenticates the
// trailers of echo requests.
func (c *Config) Translator(key [16]byte) translator.Config {
	pools := slices.Concat(c.MappedBlocks, c.Relay.IPv4, c.MAP.addresses4()) // what nobody has there would only come back
	for _, p := range c.Pools {
		if p.Static() {
			pools = append(pools, p.IPv4.Prefix)
		}
	}
	mtu4, edge := c.MTU.IPv4, translator.Edge{}
	if c.Edge.Enabled {
		mtu4 = c.Edge.MTU - 20 // what is IPv4 in between gets longer
		edge = translator.Edge{Prefix: c.Edge.Prefix, Blocks: c.EdgeBlocks(nil)}
	}
	return translator.Config{
		Edge:             edge,
		Pools4:           pools,
		IPv4:             c.Addresses.IPv4,
		IPv6:             c.Addresses.IPv6,
		ICMPSource4:      c.ICMPSourcePool.IPv4,
		ICMPSource6:      c.ICMPSourcePool.IPv6,
		ErrorRate:        c.ICMPErrors.Rate,
		ErrorBurst:       c.ICMPErrors.Burst,
		ErrorTotalRate:   c.ICMPErrors.TotalRate,
		ErrorTotalBurst:  c.ICMPErrors.TotalBurst,
		MTU4:             mtu4,
		MTU6:             c.MTU.IPv6,
		LowestMTU6:       c.LowestIPv6MTU,
		UDPZeroChecksum:  translator.UDPZeroChecksum(c.UDPZeroChecksum),
		ZeroTrafficClass: bool(c.TrafficClass),
		AllowNonGlobal:   c.AllowNonGlobal,
		Key:              key,
		Rules:            c.MAP.rules(),
		FirstUse:         c.firstUse(),
	}
}

// Table is the prefix and the explicit mappings, without assignments. Of a
// configuration from Load or Parse it costs nothing and gives no error.
func (c *Config) Table() (*mapping.Table, error) {
	if c.explicit != nil {
		return c.explicit.table, nil
	}
	mappings := make([]mapping.Mapping, len(c.Mappings))
	for i, m := range c.Mappings {
		mappings[i] = m.translated()
	}
	return mapping.New(c.Prefix, mappings)
}

// WithTable is c with another table of the same prefix and explicit mappings, whose
// memory somebody has anyway.
func (c *Config) WithTable(table *mapping.Table) *Config {
	if c.explicit == nil {
		return c
	}
	own, explicit := *c, *c.explicit
	explicit.table, own.explicit = table, &explicit
	return &own
}

// Mapped4 is the fewest prefixes that hold the IPv4 addresses of the explicit
// mappings and of MappedBlocks, and no others. It is empty unless the
// configuration comes from Load or Parse.
func (c *Config) Mapped4() []netip.Prefix {
	if c.explicit == nil {
		return nil
	}
	return c.explicit.mapped4
}

// Shared reports whether explicit mappings share an IPv4 address.
func (c *Config) Shared() bool { return c.explicit != nil && c.explicit.shared }

// NeedsRestart names the keys that differ between a running configuration and
// a new one and that only a restart can change.
func NeedsRestart(running, next *Config) []string {
	names := differences("", reflect.ValueOf(*running), reflect.ValueOf(*next), false)
	if running.Relay.Enabled() != next.Relay.Enabled() {
		names = append(names, "relay.ipv4")
	}
	return names
}

func differences(key string, a, b reflect.Value, restart bool) (names []string) {
	t := a.Type()
	for i := range len(keys(t)) {
		field := t.Field(i)
		name, restart := join(key, field.Tag.Get("yaml")), restart || field.Tag.Get("restart") != ""
		switch {
		case field.Type.Kind() == reflect.Struct && field.Type.PkgPath() == t.PkgPath():
			names = append(names, differences(name, a.Field(i), b.Field(i), restart)...)
		case restart && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
			names = append(names, name)
		}
	}
	return names
}
