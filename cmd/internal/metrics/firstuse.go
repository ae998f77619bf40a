//go:build linux

package metrics

import (
	"maps"
	"slices"

	"github.com/natless/natless/config/api"
)

// FirstUse is what was given to sources that nobody announced, since the start.
type FirstUse struct {
	Pools                     []api.FirstUse
	Given, GivenBack, Dropped uint64
	Refused                   map[string]uint64 // by reason
}

var (
	firstUseWorkloads = desc("first_use_workloads", "Assignments that a pool has given to sources that nobody announced.", "pool")
	firstUseGiven     = desc("first_use_given_total", "Assignments that were given by first use.")
	firstUseBack      = desc("first_use_given_back_total", "Assignments by first use that were idle and given back.")
	firstUseRefused   = desc("first_use_refused_total", "Sources, each time, that got no assignment by first use.", "reason")
	firstUseHeld      = desc("first_use_packets_total", "Packets from sources of first use that had no assignment: held until they have, or refused.",
		"direction", "way")
	firstUseDropped = desc("first_use_dropped_packets_total", "Further packets of a source that were dropped while its assignment was being made.")
)

func (c *Collector) firstUse(s sink) {
	if c.FirstUse == nil {
		return
	}
	f := c.FirstUse()
	for _, p := range f.Pools {
		s.gauge(firstUseWorkloads, float64(p.Workloads), p.Pool)
	}
	s.counter(firstUseGiven, f.Given)
	s.counter(firstUseBack, f.GivenBack)
	s.counter(firstUseDropped, f.Dropped)
	for _, reason := range slices.Sorted(maps.Keys(f.Refused)) {
		s.counter(firstUseRefused, f.Refused[reason], reason)
	}
}
