package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/natless/natless/config/api"
)

// Relay is what makes this host a relay: it translates for hosts that a fleet has lent
// blocks of these addresses, by rules that the fleet tells.
type Relay struct {
	IPv4        []netip.Prefix `yaml:"ipv4"`        // none: this host is no relay
	StaleAfter  time.Duration  `yaml:"stale_after"` // without a word of the fleet
	Drain       bool           `yaml:"drain"`       // other relays are to be preferred
	Table       int            `yaml:"table"`       // of the kernel, with routes for what is served
	Metric      int            `yaml:"metric"`      // of these
	DrainMetric int            `yaml:"drain_metric"`
	Linger      time.Duration  `yaml:"linger"` // after the routes are gone, before it ends
}

// hostPoolTable is route.HostPoolTable.
const hostPoolTable = 110

// Enabled says that this host is a relay.
func (r Relay) Enabled() bool { return len(r.IPv4) > 0 }

func defaultRelay() Relay {
	return Relay{StaleAfter: time.Minute, Table: 111, Metric: 100, DrainMetric: 1000, Linger: time.Second}
}

func (v validator) relay() {
	r := v.Relay
	v.check(r.StaleAfter >= 5*time.Second, "relay.stale_after", "%s is less than 5s", r.StaleAfter)
	v.between("relay.table", r.Table, 1, 1<<31-1)
	v.check(r.Table < 253 || r.Table > 255, "relay.table", "%d is a table of the kernel's own", r.Table)
	v.check(r.Table != hostPoolTable, "relay.table", "%d is natless's own for pools of the host's address", r.Table)
	v.between("relay.metric", r.Metric, 1, 1<<31-1)
	v.between("relay.drain_metric", r.DrainMetric, r.Metric+1, 1<<31-1)
	v.check(0 <= r.Linger && r.Linger <= time.Minute, "relay.linger", "%s is not between 0s and 1m", r.Linger)
	if !r.Enabled() {
		return
	}
	v.check(v.Prefix.IsValid(), "relay.ipv4", "a relay needs a prefix (RFC 6052), by which hosts reach IPv4")
	for i, p := range r.IPv4 {
		key := "relay.ipv4[" + strconv.Itoa(i) + "]"
		if !p.IsValid() || !p.Addr().Is4() || p.Bits() == 0 || !usable(p) {
			v.check(false, key, "%s is not an IPv4 prefix that hosts may have", p)
			continue
		}
		v.check(!p.Contains(v.Addresses.IPv4), key, "%s covers addresses.ipv4, which is the translator's own", p)
		source := v.ICMPSourcePool.IPv4
		v.check(!source.IsValid() || !p.Overlaps(source), key, "%s overlaps icmp_source_pool.ipv4 (%s)", p, source)
		for j, other := range r.IPv4[:i] {
			v.check(!other.Overlaps(p), key, "%s overlaps relay.ipv4[%d] (%s)", p, j, other)
		}
		for j, pool := range v.Pools {
			v.check(!pool.Static() || !pool.IPv4.Prefix.Overlaps(p), key, "%s overlaps pools[%d] (%s)", p, j, pool.IPv4)
		}
	}
}

// ofRelay reports whether addresses are, at least some of them, those of the relay's rules.
func (r Relay) overlaps(p netip.Prefix) bool {
	for _, own := range r.IPv4 {
		if own.IsValid() && own.Overlaps(p) {
			return true
		}
	}
	return false
}

// CheckRule says why a rule cannot be one of this relay, with the field that is wrong.
func (c *Config) CheckRule(r api.Rule) (field string, err error) {
	inside := false
	for _, p := range c.Relay.IPv4 {
		inside = inside || p.Bits() <= r.IPv4.Bits() && p.Contains(r.IPv4.Addr())
	}
	switch {
	case !c.Relay.Enabled():
		return "ipv4", errors.New("this host is no relay (relay.ipv4)")
	case !inside:
		return "ipv4", fmt.Errorf("%s is outside of relay.ipv4", r.IPv4)
	case !usable(r.IPv6):
		return "ipv6", fmt.Errorf("%s is not an IPv6 prefix that hosts may have", r.IPv6)
	case r.IPv6.Contains(c.Addresses.IPv6):
		return "ipv6", fmt.Errorf("%s covers addresses.ipv6, which is the translator's own", r.IPv6)
	case c.MAP.has(r.IPv6):
		return "ipv6", fmt.Errorf("%s overlaps map.rules, whose addresses CEs have", r.IPv6)
	case c.Prefix.Overlaps(r.IPv6):
		return "ipv6", fmt.Errorf("%s overlaps the prefix, %s", r.IPv6, c.Prefix)
	}
	return "", nil
}
