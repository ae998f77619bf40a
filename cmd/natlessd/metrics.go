//go:build linux

package main

import (
	"errors"
	"net/http"
	"time"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/cmd/internal/page"
	"github.com/natless/natless/cmd/internal/web"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// newWeb makes the listener for Prometheus and people, or gives nil when none
// is configured. More pages go onto its mux.
func newWeb(s *server, c *config.Config, r *reloader, ready func() bool) *web.Server {
	if !c.Metrics.Listen.IsValid() {
		return nil
	}
	all := metrics.NewRegistry(&metrics.Collector{Sources: s.sources(r, ready)})
	if c.Metrics.CountsWorkloads() {
		all.MustRegister(metrics.NewWorkloads(s.workloads.accounts, s.workloads.BySerial))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(all, s.log))
	mux.Handle("GET /", page.New(s.shown(r, ready), s.log))
	s.web = web.New(c.Metrics.Listen, mux, s.log)
	return s.web
}

// shown is where the status page's facts come from.
func (s *server) shown(r *reloader, ready func() bool) page.Sources {
	started := time.Now()
	return page.Sources{
		Status:     func() api.Status { return s.status(r, started, ready()) },
		Traffic:    s.traffic,
		Registry:   s.workloads.Registry,
		Assignable: r.assignable,
		Complete:   s.complete,
		Meaning:    explain.Meaning,
	}
}

// assignable is what of an address a pool of the running configuration gives
// away of itself.
func (r *reloader) assignable(pool string) ports.Set {
	for _, p := range r.running().Pools {
		if p.Name == pool && !p.WholeAddress {
			return p.Assignable()
		}
	}
	return ports.Set{}
}

// sources is where the metrics come from.
func (s *server) sources(r *reloader, ready func() bool) metrics.Sources {
	return metrics.Sources{
		Version:  version,
		Ready:    ready,
		Traffic:  s.dataplane.Snapshot,
		FastPath: s.fastPath.counted,
		Device:   func() (metrics.Device, bool) { return describe(s.dataplane) },
		Table:    func() (int, int) { return s.translator.Table().Len(), s.workloads.Len() },
		Pools:    s.workloads.Pools,
		Reloads:  r.counts,
		Local:    s.local.Stats,
		Refusals: s.refusals,
		DNS64:    s.local.DNS64,
		Spoofing: spoofed,
	}
}

func describe(plane *dataplane.Dataplane) (metrics.Device, bool) {
	d := plane.Device()
	if d == nil {
		return metrics.Device{}, false
	}
	link, err := d.LinkStats()
	o := d.Offloads()
	return metrics.Device{Name: d.Name(), IO: string(d.IO()), TSO: o.TSO, USO: o.USO, Link: link, LinkOK: err == nil}, true
}

// renumber gives the translator, and then the kernel, a table in which workloads
// may have other slots; step is what that means to the accounts.
func (s *server) renumber(c translator.Config, table *mapping.Table, step *accounting.Renumbering) error {
	var kernel error
	s.workloads.order.Lock()
	defer s.workloads.order.Unlock()
	if err := s.guard.Replace(table); err != nil {
		return err
	}
	err := step.Commit(func() error {
		err := s.translator.Reload(c, table)
		if err == nil {
			kernel = s.fastPath.replace(s.translator)
		}
		return err
	})
	return errors.Join(err, kernel)
}

// counts is what came of all reloads so far.
func (r *reloader) counts() metrics.Reloads {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attempts
}

// count notes what came of a reload; the caller holds mu.
func (r *reloader) count(at time.Time, err error) {
	r.attempts.LastRefused = err != nil
	if err != nil {
		r.attempts.Refused++
		return
	}
	r.attempts.Succeeded++
	r.attempts.LastSuccess = at
}

// tasksOf adds the tasks that only some configurations have.
func tasksOf(w *web.Server, others ...task) []task {
	if w == nil {
		return others
	}
	return append(others, w)
}

var _ task = (*web.Server)(nil)
