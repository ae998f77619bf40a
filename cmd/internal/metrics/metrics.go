//go:build linux

// Package metrics shows what the daemon counts to Prometheus. It reads
// snapshots when it is scraped and keeps nothing of its own; counting belongs
// to who does the work, and sockets may not enter here.
package metrics

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/vishvananda/netlink"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/local/dns64"
)

// Sources is where figures come from. They are asked at each scrape, by any
// number of goroutines.
type Sources struct {
	Version  string
	Ready    func() bool
	Traffic  func() dataplane.Snapshot // the daemon's own
	FastPath func() FastPath
	Device   func() (Device, bool) // false while there is none
	Table    func() (mappings, workloads int)
	Pools    func() []api.Pool
	Drained  func() bool // the whole host is
	Relay    func() *Relay
	MAP      func() []api.MapRule // nil: no rules
	FirstUse func() FirstUse      // nil: there is none
	Reloads  func() Reloads
	Local    func() local.Stats
	Refusals func() []api.Limit
	Flows    func() api.FlowStatus
	Shed     func() Shed
	Rules    func() []Rule        // of policies, that deny
	DNS64    func() *dns64.Server // nil: off
	Spoofing func() (causes map[string]uint64, installed bool, err error)
}

// Device is the translator's device as it is now.
type Device struct {
	Name     string
	IO       string
	TSO, USO bool
	Link     netlink.LinkStatistics64
	LinkOK   bool // Link could be read
}

// Reloads counts what became of the attempts to reload the configuration.
type Reloads struct {
	Succeeded, Refused uint64
	LastRefused        bool
	LastSuccess        time.Time // the start counts as one
}

// Collector gives everything that Sources know.
type Collector struct{ Sources }

// Describe names every metric.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

// Collect asks the sources.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	s := sink(ch)
	c.process(s)
	t := c.Traffic()
	c.verdicts(s, t)
	c.fastPath(s)
	c.device(s, t)
	c.pools(s)
	c.relay(s)
	c.mapRules(s)
	c.firstUse(s)
	c.local(s)
	c.dns64(s)
	c.flows(s)
	c.shed(s)
	c.policies(s)
	for _, l := range c.Refusals() {
		s.counter(refusals, l.Refused, l.What, l.Budget)
	}
}

// NewRegistry has the collectors of the daemon: its own, the process's and Go's.
func NewRegistry(own ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(own...)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler answers scrapes. What cannot be collected is left out and logged, so
// that the rest is seen.
func Handler(r *prometheus.Registry, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		Timeout: 20 * time.Second, EnableOpenMetrics: true,
	})
}

// all is every metric of this package, in the order of the files.
var all []*prometheus.Desc

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("natless_"+name, help, labels, nil)
	all = append(all, d)
	return d
}

// sink takes one sample after another.
type sink chan<- prometheus.Metric

func (s sink) counter(d *prometheus.Desc, n uint64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) is(d *prometheus.Desc, yes bool, labels ...string) {
	v := 0.0
	if yes {
		v = 1
	}
	s.gauge(d, v, labels...)
}
