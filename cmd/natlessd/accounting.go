//go:build linux

package main

import (
	"iter"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/translator/mapping"
)

// openAccounts has everybody's packets accounted for from now on. Nothing runs yet.
func (s *server) openAccounts(c *config.Config) {
	counts := func(slot uint32) (u accounting.Usage) {
		u.Violations = s.translator.Violations(slot)
		if !c.Metrics.CountsWorkloads() {
			return u
		}
		t := s.trafficOf(slot)
		u.Sent, u.Received = accounting.Count(t.Sent), accounting.Count(t.Received)
		return u
	}
	all := s.workloads.All()
	s.workloads.accounts = accounting.New(c.Metrics.MaxWorkloads, placesIn(s.translator.Table(), all), counts)
}

// placesIn are where a table has assignments.
func placesIn(t *mapping.Table, all []*registry.Assignment) iter.Seq[accounting.Place] {
	return func(yield func(accounting.Place) bool) {
		for _, a := range all {
			if !yield(accounting.Place{Serial: a.Serial, Succeeds: a.Succeeds, Slot: slotOf(t, a)}) {
				return
			}
		}
	}
}

func slotOf(t *mapping.Table, a *registry.Assignment) uint32 {
	if e := t.Get(a.Mapping().IPv6); e != nil {
		return e.Slot()
	}
	return 0
}

// accounted is what an edit means to the accounts; t is the table that came of it.
func accounted(t *mapping.Table, c registry.Change) (to accounting.Change) {
	if c.Old != nil {
		to.Old = c.Old.Serial
	}
	if c.New != nil {
		to.New, to.Slot = c.New.Serial, slotOf(t, c.New)
	}
	return to
}
