//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator"
)

// apiTask answers on the API's socket.
type apiTask struct {
	*apiserver.Server
	path  string
	group int
	ready chan struct{}
}

// newAPI makes the API of a daemon.
func newAPI(d *Daemon, c *config.Config) (*apiTask, error) {
	group, err := apiserver.GroupID(c.API.Group)
	if err != nil {
		return nil, err
	}
	options := apiserver.Options{
		Registry: d.keeper,
		Status:   func(context.Context) (api.Status, error) { return d.status(), nil },
		Explain: func(_ context.Context, words string) (api.Explanation, error) {
			return explain.Beside(d.host.Translator, words, d.givesWay)
		},
		Reload:     func(context.Context) error { return d.reloader.reload() },
		Blocks:     func() api.Blocks { return d.reloader.blocks(d.reloader.running()) },
		PutBlocks:  d.reloader.putBlocks,
		Relay:      func() (api.Relay, error) { return d.relay(d.reloader.running(), true) },
		PutRules:   d.putRules,
		PatchRules: d.patchRules,
		Watch: func(ctx context.Context, w api.Watch, send apiserver.Send) error {
			return d.watch(ctx, w, c.Device.Name, send)
		},
		Leads:    d.leads,
		Identify: func(a netip.Addr, port int) ([]api.Owner, string) { return d.identify(d.reloader.running(), a, port) },
		Ready:    d.ready,
		Complete: d.complete,
		Profiles: c.API.Pprof,
		Group:    group,
		Log:      d.Log,
	}
	options.Policies = d.policies
	if d.recorder.collector != nil {
		options.Flows = d.recorder.flows
	}
	server := apiserver.New(options)
	return &apiTask{Server: server, path: c.API.Socket, group: group, ready: make(chan struct{})}, nil
}

// Ready is closed when the socket is there.
func (a *apiTask) Ready() <-chan struct{} { return a.ready }

// Run answers until ctx is done.
func (a *apiTask) Run(ctx context.Context) error {
	l, err := apiserver.Listen(a.path, a.group)
	if err != nil {
		return err
	}
	close(a.ready)
	return a.Server.Run(ctx, l)
}

// complete adds what the translator knows of a workload.
func (d *Daemon) complete(w *api.Workload) {
	w.Prefix = d.host.Table().Prefix()
	used, known := d.accounts.Usage(w.Serial)
	w.Violations, w.Shed, w.Denied, w.Daemon = used.Violations, used.Shed, used.Denied, used.Daemon
	if known && d.counted {
		w.Traffic = &api.Traffic{Sent: api.Count(used.Sent), Received: api.Count(used.Received)}
	}
}

func (d *Daemon) status() api.Status {
	c := d.reloader.running()
	st := api.Status{
		Version: d.Version, PID: os.Getpid(), Ready: d.ready(), Started: d.started, Config: d.Path,
		Prefix: c.Prefix, IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6,
		Device:   api.Device{Name: c.Device.Name, MTU: c.Device.MTU, Queues: queues(c)},
		Mappings: d.host.Table().Len(), Workloads: d.keeper.Len(),
		Drains: d.keeper.Drains(), Reload: d.reloader.last(), FastPath: fastPathStatus(d.host.FastPath, c.FastPath),
	}
	st.Offload = st.FastPath
	st.Flows = d.recorder.status()
	traffic := d.host.Traffic()
	st.Verdicts = verdicts(traffic)
	st.Limits = d.limits(traffic)
	st.Shedding, st.MAP = d.shedding(), d.mapStatus()
	st.FirstUse = d.firstUse.status()
	device := api.Check{Name: "device", State: "ok"}
	if t := d.host.Dataplane.Device(); t == nil {
		device.State, device.Detail = "fail", "it is gone and is being made anew"
	} else {
		device.Detail = fmt.Sprintf("read and written by %s", t.IO())
		o := t.Offloads()
		for name, granted := range map[string]bool{"tso": o.TSO, "uso": o.USO} {
			if granted {
				st.Device.Offload = append(st.Device.Offload, name)
			}
		}
	}
	st.Checks = append(st.Checks, device)
	st.Checks = append(append(st.Checks, d.checks(c)...), wayBack(c, st.Verdicts))
	st.Checks = append(st.Checks, d.recorder.check()...)
	return st
}

// fastPathStatus is what people are told of the fast path.
func fastPathStatus(f *engine.KernelPath, mode config.FastPath) api.FastPath {
	o := api.FastPath{Mode: mode.String(), State: api.FastPathOff, Detail: f.Why}
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
	if s.Inside > 0 {
		o.Translated[translator.Pass4.String()] = api.FastPathCount(n.Inside[fastpath.Translated])
		o.Translated[translator.Deliver4.String()] = api.FastPathCount(n.Delivered[fastpath.Translated])
	}
	o.Lost = n.Uplink[fastpath.Lost].Packets + n.Workload[fastpath.Lost].Packets + n.Inside[fastpath.Lost].Packets
	if s.XDP.Wanted {
		o.XDP = &api.FastPathXDP{Interfaces: append([]string{}, s.XDP.At...), Notes: s.XDP.Notes, Packets: byReason(f)}
	}
	o.Passed = map[string]uint64{}
	for r := range fastpath.NumReasons {
		if r != fastpath.Translated && r != fastpath.Lost && r != fastpath.Spoofed {
			o.Passed[r.String()] = n.Uplink[r].Packets + n.Workload[r].Packets + n.Inside[r].Packets
		}
	}
	return o
}

// byReason is what XDP made of packets, both families together; nil: nobody knows.
func byReason(f *engine.KernelPath) map[string]uint64 {
	taken, ok := f.Taken()
	if !ok {
		return nil
	}
	all := map[string]uint64{}
	for _, family := range taken {
		for r, n := range family {
			if n.Packets > 0 {
				all[fastpath.XDPReason(r).String()] += n.Packets
			}
		}
	}
	return all
}

// verdicts counts packets by what became of them, both directions together.
func verdicts(s dataplane.Snapshot) map[string]uint64 {
	counts := make(map[string]uint64, translator.NumVerdicts)
	for _, direction := range s.Verdicts {
		for v, n := range direction {
			counts[translator.Verdict(v).String()] += n.Packets
		}
	}
	return counts
}
