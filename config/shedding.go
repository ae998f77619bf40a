package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Shedding is who gives way when the host is overloaded, and what workloads may bring at
// any time.
type Shedding struct {
	Enabled   bool       `yaml:"enabled" restart:"yes"`
	Workloads []ShedRule `yaml:"workloads"` // the first that is about a workload holds
}

// ShedRule is what an operator wants of some workloads. One of Name, Pool and IPv6 says of
// which.
type ShedRule struct {
	Name     string       `yaml:"name"` // a pattern (path.Match)
	Pool     string       `yaml:"pool"`
	IPv6     netip.Prefix `yaml:"ipv6"` // workloads, and mappings, with an address in it
	Priority string       `yaml:"priority"`
	Sent     ShedLimits   `yaml:"sent"`
	Received ShedLimits   `yaml:"received"`
}

// ShedLimits are what a workload may bring each second; 0: as much as it likes.
type ShedLimits struct {
	Packets     int `yaml:"packets"`
	Bits        int `yaml:"bits"`
	Connections int `yaml:"connections"` // new ones, of TCP
}

// The priorities, of which the first gives way first.
const (
	PriorityBatch    = "batch"
	PriorityNormal   = "normal"
	PriorityCritical = "critical"
)

// About says that a rule is about a workload with a name and an IPv6 address, of a pool;
// explicit mappings have neither name nor pool.
func (r *ShedRule) About(name, pool string, ipv6 netip.Addr) bool {
	switch {
	case r.Name != "":
		ok, _ := path.Match(r.Name, name)
		return ok
	case r.Pool != "":
		return r.Pool == pool
	}
	return r.IPv6.Contains(ipv6)
}

// Of is the rule about a workload, or nil.
func (s *Shedding) Of(name, pool string, ipv6 netip.Addr) *ShedRule {
	for i := range s.Workloads {
		if r := &s.Workloads[i]; r.About(name, pool, ipv6) {
			return r
		}
	}
	return nil
}

func (v validator) shedding() {
	for i, r := range v.Shedding.Workloads {
		key := fmt.Sprintf("shedding.workloads[%d]", i)
		v.shedSelector(key, r)
		priorities := []string{"", PriorityBatch, PriorityNormal, PriorityCritical}
		v.check(slices.Contains(priorities, r.Priority), key+".priority", "%q is none of %s", r.Priority, strings.Join(priorities[1:], ", "))
		nothing := r.Priority == "" && r.Sent == ShedLimits{} && r.Received == ShedLimits{}
		v.check(!nothing, key, "says nothing: give it a priority, or limits (sent, received)")
		for _, l := range []struct {
			key string
			ShedLimits
		}{{key + ".sent", r.Sent}, {key + ".received", r.Received}} {
			v.between(l.key+".packets", l.Packets, 0, 1_000_000_000)
			v.between(l.key+".connections", l.Connections, 0, 1_000_000_000)
			v.check(l.Bits == 0 || 10_000 <= l.Bits && l.Bits <= 1_000_000_000_000, l.key+".bits", "%d is neither 0 nor between 10000 and 10^12", l.Bits)
		}
	}
}

// shedSelector judges of whom a rule is.
func (v validator) shedSelector(key string, r ShedRule) {
	given := 0
	for _, is := range []bool{r.Name != "", r.Pool != "", r.IPv6.IsValid()} {
		if is {
			given++
		}
	}
	if given != 1 {
		v.fail(key, errors.New("is about nobody, or about two kinds: give one of name, pool and ipv6"))
	}
	_, err := path.Match(r.Name, "")
	v.check(err == nil, key+".name", "%q is no pattern: %v", r.Name, err)
	known := slices.ContainsFunc(v.Pools, func(p Pool) bool { return p.Name == r.Pool })
	v.check(r.Pool == "" || known, key+".pool", "there is no pool %q", r.Pool)
	v.check(!r.IPv6.IsValid() || r.IPv6.Addr().Is6() && r.IPv6 == r.IPv6.Masked(), key+".ipv6", "%v is no IPv6 prefix", r.IPv6)
}
