//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/explain"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator"
)

// apiTask answers on the API's socket.
type apiTask struct {
	*apiserver.Server
	path  string
	group int
	ready chan struct{}
}

// newAPI makes the API of a server; ready says whether all of it is.
func newAPI(s *server, r *reloader, ready func() bool) (*apiTask, error) {
	c := r.running()
	group, err := apiserver.GroupID(c.API.Group)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	server := apiserver.New(apiserver.Options{
		Registry: s.workloads,
		Status:   func(context.Context) (api.Status, error) { return s.status(r, started, ready()), nil },
		Explain: func(_ context.Context, words string) (api.Explanation, error) {
			return explain.Packet(s.translator, words)
		},
		Reload: func(context.Context) error { return r.reload() },
		Watch: func(ctx context.Context, w api.Watch, send apiserver.Send) error {
			return s.watch(ctx, w, r.running().Device.Name, send)
		},
		Ready:    ready,
		Complete: s.complete,
		Profiles: c.API.Pprof,
		Group:    group,
		Log:      s.log,
	})
	s.api = server
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
func (s *server) complete(w *api.Workload) {
	w.Prefix = s.translator.Table().Prefix()
	used, _ := s.workloads.accounts.Usage(w.Serial)
	w.Violations = used.Violations
}

func (s *server) status(r *reloader, started time.Time, ready bool) api.Status {
	c := r.running()
	st := api.Status{
		Version: version, PID: os.Getpid(), Ready: ready, Started: started, Config: r.path,
		Prefix: c.Prefix, IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6,
		Device:   api.Device{Name: c.Device.Name, MTU: c.Device.MTU, Queues: queues(c)},
		Mappings: s.translator.Table().Len(), Workloads: s.workloads.Len(),
		Reload: r.last(), FastPath: s.fastPath.status(),
	}
	st.Offload = st.FastPath
	traffic := s.traffic()
	st.Verdicts = verdicts(traffic)
	st.Limits = s.limits(traffic)
	device := api.Check{Name: "device", State: "ok"}
	if d := s.dataplane.Device(); d == nil {
		device.State, device.Detail = "fail", "it is gone and is being made anew"
	} else {
		device.Detail = fmt.Sprintf("read and written by %s", d.IO())
		o := d.Offloads()
		for name, granted := range map[string]bool{"tso": o.TSO, "uso": o.USO} {
			if granted {
				st.Device.Offload = append(st.Device.Offload, name)
			}
		}
	}
	st.Checks = append(st.Checks, device, homeless(s.workloads.Registry), written(s.workloads.Registry), s.hostPorts(),
		s.othersNAT.look(*s.desired.Load()), s.spoofing(), s.held(c))
	st.Checks = append(st.Checks, s.insisted(c)...)
	if c.Uplink != "" {
		st.Checks = append(st.Checks, announcements(s.routes))
	}
	if d := s.local.DNS64(); d != nil {
		st.Checks = append(st.Checks, upstreams(d))
	}
	return st
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

// written says whether assignments can be written.
func written(r *registry.Registry) api.Check {
	if err := r.Broken(); err != nil {
		return api.Check{Name: "registry", State: "fail", Detail: err.Error()}
	}
	if err := r.Failed(); err != nil {
		return api.Check{Name: "registry", State: "fail",
			Detail: "new workloads wait: the last change could not be written: " + err.Error()}
	}
	return api.Check{Name: "registry", State: "ok"}
}

// announcements says whether the uplink's link hears of our addresses.
func announcements(m *route.Manager) api.Check {
	n, err := m.Announcements()
	if err != nil {
		return api.Check{Name: "announcements", State: "warn", Detail: fmt.Sprintf(
			"neighbours are not told when an address becomes ours (%v): give natlessd CAP_NET_RAW", err)}
	}
	return api.Check{Name: "announcements", State: "ok", Detail: fmt.Sprintf("%d sent", n)}
}

// homeless looks for assignments that no pool would give any more.
func homeless(r *registry.Registry) api.Check {
	outside := r.Outside()
	if len(outside) == 0 {
		return api.Check{Name: "pools", State: "ok"}
	}
	const most = 5
	var words []string
	for _, o := range outside[:min(most, len(outside))] {
		if o.Ports.IsZero() {
			words = append(words, o.Address.String())
		} else {
			words = append(words, fmt.Sprintf("%s ports %v", o.Address, o.Ports))
		}
	}
	if n := len(outside) - most; n > 0 {
		words = append(words, fmt.Sprintf("and %d more addresses", n))
	}
	return api.Check{Name: "pools", State: "warn", Detail: fmt.Sprintf(
		"workloads have what is in no pool any more, and keep it until they end: %s", strings.Join(words, ", "))}
}
