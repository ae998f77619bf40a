//go:build linux

package daemon

import (
	"context"
	"net/http"
	"os"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/cmd/internal/page"
	"github.com/natless/natless/cmd/internal/web"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator/ports"
)

// newWeb makes the listener for Prometheus and people, or gives nil when none
// is configured. More pages go onto its mux.
func newWeb(d *Daemon, c *config.Config) *web.Server {
	if !c.Metrics.Listen.IsValid() {
		return nil
	}
	all := metrics.NewRegistry(&metrics.Collector{Sources: d.sources()})
	if c.Metrics.CountsWorkloads() {
		all.MustRegister(metrics.NewWorkloads(d.accounts, d.keeper.BySerial))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(all, d.Log))
	mux.Handle("GET /", page.New(d.shown(c.Device.Name), d.Log))
	return web.New(c.Metrics.Listen, mux, d.Log)
}

// shown is where the status page's facts come from.
func (d *Daemon) shown(device string) page.Sources {
	host, _ := os.Hostname() // without it the page has no name
	drops := &dropWatch{lease: droppedLease, watch: func(ctx context.Context, w api.Watch, send apiserver.Send) error {
		return d.watch(ctx, w, device, send)
	}}
	s := page.Sources{
		Host:       host,
		Status:     d.status,
		Traffic:    d.host.Traffic,
		Registry:   d.keeper.Registry,
		Owners:     d.api.Owners,
		Assignable: d.reloader.assignable,
		Complete:   d.complete,
		Meaning:    explain.Meaning,
		Used:       d.accounts.All,
		Counted:    d.counted,
		Dropped:    drops.look,
	}
	if d.recorder.collector != nil {
		s.Flows = d.recorder.flowsOf
	}
	return s
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
func (d *Daemon) sources() metrics.Sources {
	return metrics.Sources{
		Version:  d.Version,
		Ready:    d.ready,
		Traffic:  d.host.Dataplane.Snapshot,
		FastPath: func() metrics.FastPath { return counted(d.host.FastPath) },
		Device:   func() (metrics.Device, bool) { return d.describe() },
		Table:    func() (int, int) { return d.host.Table().Len(), d.keeper.Len() },
		Pools:    d.keeper.Pools,
		Drained:  d.keeper.HostDrained,
		Relay:    d.relayFigures,
		Reloads:  d.reloader.counts,
		Local:    d.host.Local.Stats,
		Refusals: d.refusals,
		Flows:    d.recorder.status,
		Rules:    d.ruleCounts,
		MAP:      d.mapStatus,
		FirstUse: d.firstUseFigures,
		DNS64:    d.host.Local.DNS64,
		Shed:     func() metrics.Shed { return shedMetrics(d.host.Shed) },
		Spoofing: spoofed,
	}
}

func (d *Daemon) describe() (metrics.Device, bool) {
	t := d.host.Dataplane.Device()
	if t == nil {
		return metrics.Device{}, false
	}
	shed := d.host.Shed.Kernel() // first: it never is more than what the link has dropped
	link, err := t.LinkStats()
	link.TxDropped -= min(shed, link.TxDropped)
	o := t.Offloads()
	return metrics.Device{Name: t.Name(), IO: string(t.IO()), TSO: o.TSO, USO: o.USO, Link: link, LinkOK: err == nil}, true
}

// counted is what Prometheus is told of the fast path.
func counted(f *engine.KernelPath) (m metrics.FastPath) {
	m.Wanted = f.Mode != engine.FastPathOff
	if f.Manager == nil {
		return m
	}
	status, n := f.Status(), f.Snapshot()
	m.Active = status.On
	for _, i := range status.Interfaces {
		if i.Error != "" {
			m.Failed++
		} else if status.On && (i.Left == "" || f.Mode == engine.FastPathRequired) {
			m.Interfaces++
		}
	}
	m.Counts[dataplane.To4], m.Counts[dataplane.To6], m.Counts[dataplane.Across] = n.Workload, n.Uplink, n.Inside
	m.Delivered = n.Delivered[fastpath.Translated]
	if taken, ok := f.Taken(); ok && status.XDP.Wanted {
		m.XDP = &taken
	}
	return m
}
