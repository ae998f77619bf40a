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

// ShedRule is what an operator wants of some workloads. One of Name, Pool, IPv6 and Labels says
// of which.
type ShedRule struct {
	Name     string       `yaml:"name"` // a pattern (path.Match)
	Pool     string       `yaml:"pool"`
	IPv6     netip.Prefix `yaml:"ipv6"` // workloads, and mappings, with an address in it
	Labels   Labels       `yaml:"labels"`
	Priority string       `yaml:"priority"`
	Sent     ShedLimits   `yaml:"sent"`
	Received ShedLimits   `yaml:"received"`
}

// Labels are those that a workload has to have, all of them.
type Labels map[string]string

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

// Shedded is a workload, or an explicit mapping, which has neither name nor pool nor labels.
type Shedded struct {
	Name, Pool string
	IPv6       netip.Addr
	Labels     map[string]string
}

// About says that a rule is about a workload.
func (r *ShedRule) About(w Shedded) bool {
	switch {
	case len(r.Labels) > 0:
		for k, v := range r.Labels {
			if has, ok := w.Labels[k]; !ok || has != v {
				return false
			}
		}
		return true
	case r.Name != "":
		ok, _ := path.Match(r.Name, w.Name)
		return ok
	case r.Pool != "":
		return r.Pool == w.Pool
	}
	return r.IPv6.Contains(w.IPv6)
}

// Of is what is wanted of a workload, or nil: the first rule by name, pool or address, and
// besides all rules by labels. Labels are what a workload's own author writes: they can take,
// and not give.
func (s *Shedding) Of(w Shedded) (want *ShedRule) {
	for i := range s.Workloads {
		r := &s.Workloads[i]
		if len(r.Labels) == 0 && r.About(w) {
			want = r
			break
		}
	}
	for i := range s.Workloads {
		r := &s.Workloads[i]
		if len(r.Labels) == 0 || !r.About(w) {
			continue
		}
		if want != nil {
			r = want.lowered(r)
		}
		want = r
	}
	return want
}

// lowered is a rule with what another has less of.
func (r *ShedRule) lowered(by *ShedRule) *ShedRule {
	both := *r
	if by.Priority != "" {
		both.Priority = by.Priority
	}
	both.Sent, both.Received = r.Sent.lowered(by.Sent), r.Received.lowered(by.Received)
	return &both
}

func (l ShedLimits) lowered(by ShedLimits) ShedLimits {
	lower := func(a, b int) int {
		if a == 0 || b == 0 {
			return max(a, b)
		}
		return min(a, b)
	}
	return ShedLimits{lower(l.Packets, by.Packets), lower(l.Bits, by.Bits), lower(l.Connections, by.Connections)}
}

func (v validator) shedding() {
	for i, r := range v.Shedding.Workloads {
		key := fmt.Sprintf("shedding.workloads[%d]", i)
		v.shedSelector(key, r)
		priorities := []string{"", PriorityBatch, PriorityNormal, PriorityCritical}
		v.check(slices.Contains(priorities, r.Priority), key+".priority", "%q is none of %s", r.Priority, strings.Join(priorities[1:], ", "))
		v.check(len(r.Labels) == 0 || r.Priority == "" || r.Priority == PriorityBatch, key+".priority",
			"%q by labels: who gives himself a label can give way sooner and not later", r.Priority)
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
	for _, is := range []bool{r.Name != "", r.Pool != "", r.IPv6.IsValid(), len(r.Labels) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		v.fail(key, errors.New("is about nobody, or about two kinds: give one of name, pool, ipv6 and labels"))
	}
	_, err := path.Match(r.Name, "")
	v.check(err == nil, key+".name", "%q is no pattern: %v", r.Name, err)
	known := slices.ContainsFunc(v.Pools, func(p Pool) bool { return p.Name == r.Pool })
	v.check(r.Pool == "" || known, key+".pool", "there is no pool %q", r.Pool)
	v.check(!r.IPv6.IsValid() || r.IPv6.Addr().Is6() && r.IPv6 == r.IPv6.Masked(), key+".ipv6", "%v is no IPv6 prefix", r.IPv6)
}
