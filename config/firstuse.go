package config

import (
	"fmt"
	"net/netip"
	"time"
)

// FirstUse says which IPv6 sources that nobody announces get an assignment of a pool by
// their first packet. Without sources there are none.
type FirstUse struct {
	Sources       []netip.Prefix `yaml:"sources"`
	Idle          time.Duration  `yaml:"idle"`            // without a packet for so long, it is given back
	Most          int            `yaml:"most"`            // assignments of the pool; 0: as many as are left for others
	MostPerPrefix int            `yaml:"most_per_prefix"` // of them, to sources of one /64
	Rate          int            `yaml:"rate"`            // a second, to sources of one /64; ten times as many to all
}

// Enabled says that there are sources.
func (f FirstUse) Enabled() bool { return len(f.Sources) > 0 }

func (f *FirstUse) setDefaults(given map[string]bool) {
	if !given["idle"] {
		f.Idle = 24 * time.Hour
	}
	if !given["most_per_prefix"] {
		f.MostPerPrefix = 64
	}
	if !given["rate"] {
		f.Rate = 10
	}
}

// firstUse are the sources of all pools.
func (c *Config) firstUse() (all []netip.Prefix) {
	for _, p := range c.Pools {
		all = append(all, p.FirstUse.Sources...)
	}
	return all
}

func (v validator) firstUse(i int) {
	f, key := v.Pools[i].FirstUse, fmt.Sprintf("pools[%d].first_use", i)
	if !f.Enabled() {
		return
	}
	v.check(f.Idle >= time.Second, key+".idle", "%s is less than 1s", f.Idle)
	v.between(key+".most", f.Most, 0, mostSpare)
	v.between(key+".most_per_prefix", f.MostPerPrefix, 1, mostSpare)
	v.between(key+".rate", f.Rate, 1, 1000)
	v.check(v.Metrics.CountsWorkloads(), key, "needs metrics.per_workload: who sends nothing is known by what is counted")
	for j, s := range f.Sources {
		at := fmt.Sprintf("%s.sources[%d]", key, j)
		if !s.IsValid() || !s.Addr().Is6() || s.Bits() == 0 || !usable(s) {
			v.check(false, at, "%s is not an IPv6 prefix that hosts may have", s)
			continue
		}
		v.check(!v.Prefix.IsValid() || !s.Overlaps(v.Prefix), at, "%s overlaps the prefix, %s", s, v.Prefix)
		v.check(!s.Contains(v.Addresses.IPv6), at, "%s covers addresses.ipv6, which is the translator's own", s)
		rule, found := v.MAP.overlaps(s)
		v.check(!found, at, "%s overlaps %s, whose addresses CEs have", s, rule)
		for n, p := range v.Pools[:i+1] {
			others := p.FirstUse.Sources
			if n == i {
				others = others[:j]
			}
			for m, o := range others {
				v.check(!o.IsValid() || !o.Overlaps(s), at, "%s overlaps pools[%d].first_use.sources[%d] (%s)", s, n, m, o)
			}
		}
	}
}
