//go:build linux

package daemon

import (
	"maps"
	"slices"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/translator"
)

// refusals are the budgets of what is shared out among clients, and how often each
// refused somebody something; those of ICMP errors aside.
func (d *Daemon) refusals() []api.Limit {
	l := d.host.Local.Stats()
	limits := []api.Limit{
		{What: "daemon-packets", Budget: "workload"},
		{What: "local-packets", Budget: "sender", Refused: l.Dropped},
		{What: "local-icmp-errors", Budget: "sender", Refused: l.ErrorsLimited},
		{What: "health-connections", Budget: "sender", Refused: l.HealthEvicted},
	}
	for _, n := range d.host.Shed.Total() {
		limits[0].Refused += n
	}
	if r := d.host.Local.DNS64(); r != nil {
		refused := r.Stats.Dropped.Load() + r.Stats.Results[dns64.Limited].Load()
		limits = append(limits, api.Limit{What: "dns64-queries", Budget: "client", Refused: refused})
	}
	if d.api != nil {
		a := d.api.Stats()
		limits = append(limits, api.Limit{What: "api-connections", Budget: "user", Refused: a.Evicted})
		for _, kind := range slices.Sorted(maps.Keys(a.Refused)) {
			limits = append(limits, api.Limit{What: "api-requests " + kind, Budget: "user", Refused: a.Refused[kind]})
		}
	}
	if d.web != nil {
		w := d.web.Stats()
		limits = append(limits,
			api.Limit{What: "http-connections", Budget: "source", Refused: w.Evicted},
			api.Limit{What: "http-answers", Budget: "source", Refused: w.Unread},
			api.Limit{What: "http-requests", Budget: "source", Refused: w.Refused})
	}
	return limits
}

// limits are the budgets that were used up.
func (d *Daemon) limits(t dataplane.Snapshot) []api.Limit {
	var errors translator.ErrorsLimited
	for _, direction := range t.ErrorsLimited {
		errors.Add(direction)
	}
	var all []api.Limit
	for kind, budgets := range errors {
		for b, refused := range budgets {
			all = append(all, api.Limit{What: "icmp-errors " + translator.ErrorKind(kind).String(), Budget: translator.Budget(b).String(),
				Refused: refused})
		}
	}
	return slices.DeleteFunc(append(all, d.refusals()...), func(l api.Limit) bool { return l.Refused == 0 })
}
