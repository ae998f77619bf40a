//go:build linux

package main

import (
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
)

// limits are the budgets that refused somebody something.
func (s *server) limits(t dataplane.Snapshot) (limits []api.Limit) {
	used := func(what, budget string, refused uint64) {
		if refused > 0 {
			limits = append(limits, api.Limit{What: what, Budget: budget, Refused: refused})
		}
	}
	var errors translator.ErrorsLimited
	for _, direction := range t.ErrorsLimited {
		errors.Add(direction)
	}
	for kind, budgets := range errors {
		for b, refused := range budgets {
			used("icmp-errors "+translator.ErrorKind(kind).String(), translator.Budget(b).String(), refused)
		}
	}
	return limits
}
