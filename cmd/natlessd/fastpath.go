//go:build linux

package main

import (
	"fmt"
	"log/slog"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// fastPath is what the kernel translates by itself, where it does.
type fastPath struct {
	*attach.Manager // nil where it does not
	mode            config.FastPath
	why             string // not
	log             *slog.Logger
	insisting       *insisting // nil where it is not required
}

// openFastPath takes the fast path into use as far as the configuration wishes
// and the kernel can, and removes what an earlier run left where it is not.
func openFastPath(c *config.Config, handover bool, s *server) (*fastPath, error) {
	f, log := &fastPath{mode: c.FastPath, log: s.log}, s.log
	ac := attach.Config{Device: c.Device.Name, Uplink: s.uplink, Required: c.FastPath == config.FastPathRequired,
		Keep: handover, After: s.routes.Ready(), Log: log}
	if c.FastPath == config.FastPathOff {
		removed, err := attach.Cleanup(ac)
		for _, what := range removed {
			log.Info("fast_path is off, removed what an earlier run left", "what", what)
		}
		return f, err
	}
	m, err := attach.New(ac)
	if err != nil {
		if ac.Required {
			return nil, fmt.Errorf("fast_path: required, but %w", err)
		}
		f.why = err.Error()
		if _, err := attach.Cleanup(ac); err != nil {
			return nil, fmt.Errorf("the fast path of an earlier run cannot be used and would go by old tables: %w", err)
		}
		log.Info("kernel fast path", "state", "off", "not", f.why)
		return f, nil
	}
	all := s.workloads.All()
	hints := make([]attach.Workload, len(all))
	for i, a := range all {
		hints[i] = located(a)
	}
	m.Hint(hints)
	if err := m.Replace(s.translator.Table(), s.translator.Config()); err != nil && ac.Required {
		return nil, fmt.Errorf("fast_path: required, but %w", err)
	}
	f.Manager = m
	if ac.Required {
		f.insisting = &insisting{fastPath: f, ready: make(chan struct{})}
	}
	return f, nil
}

// located is an assignment's mapping and where its workload is.
func located(a *registry.Assignment) attach.Workload {
	return attach.Workload{Mapping: a.Mapping(), Interface: a.Request.HostInterface}
}

// follow brings the kernel to what a change of an assignment made of the table.
func (f *fastPath) follow(table *mapping.Table, c registry.Change) {
	if f == nil || f.Manager == nil {
		return
	}
	var removed, added []attach.Workload
	if c.Old != nil {
		removed = append(removed, located(c.Old))
	}
	if c.New != nil {
		added = append(added, located(c.New))
	}
	f.Edit(table, removed, added)
}

// replace puts the translator's configuration and table in force in the kernel.
// Only who required the fast path hears that it cannot be.
func (f *fastPath) replace(t *translator.Translator) error {
	if f.Manager == nil {
		return nil
	}
	if err := f.Replace(t.Table(), t.Config()); err != nil && f.mode == config.FastPathRequired {
		return fmt.Errorf("fast_path: required, but %w", err)
	}
	return nil
}

// tasks is the manager, if there is one; where it is required, it is ready when
// the kernel translates.
func (f *fastPath) tasks() []task {
	switch {
	case f.Manager == nil:
		return nil
	case f.insisting != nil:
		return []task{f.insisting}
	}
	return []task{f.Manager}
}

// diverts is how every packet is made to take the way through the daemon, and
// at how many interfaces the kernel has another one.
func (f *fastPath) diverts() (pause func(bool) error, interfaces func() int) {
	if f.Manager == nil {
		return nil, nil
	}
	return f.Pause, func() int { return len(f.Status().Interfaces) }
}

// traffic is what the daemon and the kernel did, together.
func (s *server) traffic() dataplane.Snapshot {
	t := s.dataplane.Snapshot()
	s.fastPath.addTo(&t)
	return t
}

// trafficOf is what both did for the mapping with a slot of the table.
func (s *server) trafficOf(slot uint32) dataplane.Traffic {
	t := s.dataplane.Traffic(slot)
	if s.fastPath.Manager == nil {
		return t
	}
	kernel, err := s.fastPath.Traffic(slot)
	if err != nil {
		s.log.Debug("traffic of a workload in the kernel", "error", err)
	}
	t.Sent.Packets += kernel.Sent.Packets
	t.Sent.Bytes += kernel.Sent.Bytes
	t.Received.Packets += kernel.Received.Packets
	t.Received.Bytes += kernel.Received.Bytes
	return t
}

// addTo adds what the kernel translated to what the daemon did: no figure
// depends on the way that a packet took.
func (f *fastPath) addTo(s *dataplane.Snapshot) {
	if f.Manager == nil {
		return
	}
	kernel := f.Snapshot()
	for _, way := range []struct {
		to   *dataplane.Count
		from fastpath.Count
	}{
		{&s.Verdicts[dataplane.To4][translator.Forward4], kernel.Workload[fastpath.Translated]},
		{&s.Verdicts[dataplane.To6][translator.Forward6], kernel.Uplink[fastpath.Translated]},
	} {
		way.to.Packets += way.from.Packets
		way.to.Bytes += way.from.Bytes
	}
}

// counted is what Prometheus is told.
func (f *fastPath) counted() (m metrics.FastPath) {
	m.Wanted = f.mode != config.FastPathOff
	if f.Manager == nil {
		return m
	}
	status, n := f.Status(), f.Snapshot()
	m.Active = status.On
	for _, i := range status.Interfaces {
		if i.Error != "" {
			m.Failed++
		} else if status.On && (i.Left == "" || f.mode == config.FastPathRequired) {
			m.Interfaces++
		}
	}
	m.Counts[dataplane.To4], m.Counts[dataplane.To6] = n.Workload, n.Uplink
	return m
}

// status is what people are told.
func (f *fastPath) status() api.FastPath {
	o := api.FastPath{Mode: f.mode.String(), State: api.FastPathOff, Detail: f.why}
	if f.Manager == nil {
		return o
	}
	s, n := f.Status(), f.Snapshot()
	o.Attach, o.Layout, o.Adopted, o.Detail = s.Attach, fastpath.Layout, s.Adopted, s.Detail
	if s.On {
		o.State = api.FastPathOn
	}
	for _, i := range s.Interfaces {
		o.Interfaces = append(o.Interfaces, api.FastPathInterface(i))
		if (i.Error != "" || i.Left != "") && s.On {
			o.State = api.FastPathPartial
		}
	}
	to4, to6 := n.Workload[fastpath.Translated], n.Uplink[fastpath.Translated]
	o.Translated = map[string]api.FastPathCount{
		translator.Forward4.String(): api.FastPathCount(to4), translator.Forward6.String(): api.FastPathCount(to6),
	}
	o.Lost = n.Uplink[fastpath.Lost].Packets + n.Workload[fastpath.Lost].Packets
	o.Passed = map[string]uint64{}
	for r := range fastpath.NumReasons {
		if r != fastpath.Translated && r != fastpath.Lost {
			o.Passed[r.String()] = n.Uplink[r].Packets + n.Workload[r].Packets
		}
	}
	return o
}
