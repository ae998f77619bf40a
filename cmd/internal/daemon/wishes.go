//go:build linux

package daemon

import (
	"maps"
	"net/netip"
	"sync"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/shed"
)

// wishing keeps what an operator wants of workloads in step with who they are.
type wishing struct {
	mu    sync.Mutex
	since map[netip.Prefix]shed.Wish // of workloads that changed while all are gone through; nil: nobody does
}

// wishes tells who sheds what an operator wants of all workloads and mappings. One at a
// time may call it.
func (d *Daemon) wishes(c *config.Config) {
	d.wishing.begin()
	all := map[netip.Prefix]shed.Wish{}
	if len(c.Shedding.Workloads) > 0 {
		for e := range d.host.State().Explicit.Entries() {
			all[e.IPv6()] = wishOf(c.Shedding.Of(config.Shedded{IPv6: e.IPv6().Addr()}))
		}
		for a := range d.keeper.Each() {
			all[prefixOf(a)] = wishFor(c, a)
		}
	}
	d.wishing.end(d.host.Shed, all)
}

func (w *wishing) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = map[netip.Prefix]shed.Wish{}
}

func (w *wishing) end(s *shed.Shed, all map[netip.Prefix]shed.Wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(all, w.since)
	w.since = nil
	maps.DeleteFunc(all, func(_ netip.Prefix, w shed.Wish) bool { return w == shed.Wish{} })
	s.Wishes(all)
}

func (w *wishing) set(s *shed.Shed, p netip.Prefix, want shed.Wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since != nil {
		w.since[p] = want
	}
	s.Wish(p, want)
}

// wish follows a change of one workload.
func (d *Daemon) wish(change registry.Change) {
	c := d.reloader.running()
	if change.Old != nil && (change.New == nil || prefixOf(change.Old) != prefixOf(change.New)) {
		d.wishing.set(d.host.Shed, prefixOf(change.Old), shed.Wish{})
	}
	if change.New != nil {
		d.wishing.set(d.host.Shed, prefixOf(change.New), wishFor(c, change.New))
	}
}

func prefixOf(a *registry.Assignment) netip.Prefix { return netip.PrefixFrom(a.Request.IPv6[0], 128) }

func wishFor(c *config.Config, a *registry.Assignment) shed.Wish {
	return wishOf(c.Shedding.Of(config.Shedded{Name: a.Request.Name, Pool: a.Pool, IPv6: a.Request.IPv6[0], Labels: a.Request.Labels}))
}

var priorities = map[string]shed.Priority{
	"": shed.Normal, config.PriorityNormal: shed.Normal, config.PriorityBatch: shed.Batch, config.PriorityCritical: shed.Critical,
}

// wishOf is what a rule wants; nil: nothing.
func wishOf(r *config.ShedRule) (w shed.Wish) {
	if r == nil {
		return w
	}
	caps := func(l config.ShedLimits) shed.Caps {
		return shed.Caps{Packets: uint64(l.Packets), Bits: uint64(l.Bits), Connections: uint64(l.Connections)}
	}
	w.Priority = priorities[r.Priority]
	w.Caps[shed.Sent], w.Caps[shed.Received] = caps(r.Sent), caps(r.Received)
	return w
}
