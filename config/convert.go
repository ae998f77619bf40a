package config

import (
	"net/netip"
	"reflect"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Translator is the configuration of the translator. key authenticates the
// trailers of echo requests.
func (c *Config) Translator(key [16]byte) translator.Config {
	var pools []netip.Prefix
	for _, p := range c.Pools {
		if !p.IPv4.Uplink {
			pools = append(pools, p.IPv4.Prefix)
		}
	}
	return translator.Config{
		Pools4:           pools,
		IPv4:             c.Addresses.IPv4,
		IPv6:             c.Addresses.IPv6,
		ICMPSource4:      c.ICMPSourcePool.IPv4,
		ICMPSource6:      c.ICMPSourcePool.IPv6,
		MTU4:             c.MTU.IPv4,
		MTU6:             c.MTU.IPv6,
		LowestMTU6:       c.LowestIPv6MTU,
		UDPZeroChecksum:  translator.UDPZeroChecksum(c.UDPZeroChecksum),
		ZeroTrafficClass: bool(c.TrafficClass),
		AllowNonGlobal:   c.AllowNonGlobal,
		Key:              key,
	}
}

// Table is the prefix and the explicit mappings, without assignments. The
// indices in its error are those of Mappings.
func (c *Config) Table() (*mapping.Table, error) {
	mappings := make([]mapping.Mapping, len(c.Mappings))
	for i, m := range c.Mappings {
		mappings[i] = mapping.Mapping{IPv6: m.IPv6, IPv4: m.IPv4}
	}
	return mapping.New(c.Prefix, mappings)
}

// NeedsRestart names the keys that differ between a running configuration and
// a new one and that only a restart can change.
func NeedsRestart(running, next *Config) []string {
	return differences("", reflect.ValueOf(*running), reflect.ValueOf(*next), false)
}

func differences(key string, a, b reflect.Value, restart bool) (names []string) {
	t := a.Type()
	for i := range t.NumField() {
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
