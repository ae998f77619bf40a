//go:build linux

package engine

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/netstack/gro"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/monitor"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// Options are what stays the same for as long as a host runs.
type Options struct {
	Open   func() (*tun.Device, error) // makes the device, first and again whenever it was deleted
	Device string                      // its name
	// OpenInside makes the TAP of State.Inside; nil: there is none. Inside is its name.
	OpenInside    func() (*tun.Device, error)
	Inside        string
	Queues        int
	Uplink        string
	Uplinks       []string // all, where they are named
	Fabric        []string // interfaces by any of which what workloads behind them send may come
	XDP           []string // of these, where packets are translated in front of traffic control
	ManageSysctls bool
	SysctlDir     string
	StateDir      string // which a reboot empties, and no other daemon has
	Leave         bool   // all that is in the kernel stays for a successor
	FastPath      Mode
	GRO           []string                      // patterns of interfaces
	Local         local.Config                  // but for what the host knows by itself
	PerMapping    bool                          // packets are counted by mapping
	Flows         bool                          // and itemised
	FlowSample    int                           // of so many packets one; 0 is 1
	FirstUse      func(*translator.Packet) bool // see dataplane.Config
	NoShedding    bool                          // nobody gives way when the host is overloaded
	Subjects      func() iter.Seq2[netip.Prefix, policy.Workload]
	InUse         func(route.InUse)
	Log           *slog.Logger
}

// Host is an engine with the parts of this host, which are tasks.
type Host struct {
	*Engine
	Translator *translator.Translator
	Guard      *guard.Manager
	Routes     *route.Manager
	FastPath   *KernelPath
	Dataplane  *dataplane.Dataplane
	Inside     *dataplane.Dataplane // of workloads with IPv4 inside; nil: there are none
	Local      *local.Stack
	GRO        *gro.Task
	Hub        *monitor.Hub
	Diversion  Diversion
	Shed       *shed.Shed
	// FlowSources are where flows are itemised.
	FlowSources []flows.Source
	perMapping  bool
}

// Open makes a host that will be as state says when its tasks run, with these
// workloads in its table.
func Open(o Options, state *State, table *mapping.Table, workloads iter.Seq[Workload]) (*Host, error) {
	h := &Host{perMapping: o.PerMapping}
	var err error
	if h.Translator, err = translator.New(state.Translator, table); err != nil {
		return nil, err
	}
	named := named(workloads, (*Workload).policed)
	if h.Guard, err = guard.New(guard.Config{Device: o.Device, Uplink: o.Uplink, Routed: slices.Concat(o.Uplinks, o.Fabric), Leave: o.Leave, Log: o.Log}, table, named); err != nil {
		return nil, err
	}
	h.Engine = New(Parts{Translator: h.Translator, Guard: h.Guard, Log: o.Log, Subjects: o.Subjects}, state)
	h.settle(table, state.Translator.Policy)
	h.Routes, err = route.New(route.Config{
		Device: o.Device, ManageSysctls: o.ManageSysctls, SysctlDir: o.SysctlDir, StateDir: o.StateDir, Leave: o.Leave, Log: o.Log,
		Assigned: h.Assigned, InUse: func(u route.InUse) { o.InUse(u); h.NoteInUse(u) },
	})
	if err != nil {
		return nil, err
	}
	h.parts.Routes = h.Routes
	if err := h.Routes.Set(state.Routes); err != nil {
		return nil, err
	}
	o.Local.Translator, o.Local.Log, o.Local.MTU = h.Translator, o.Log, state.Routes.MTU
	o.Local.Host = new(route.Addresses).Has
	o.Local.Write = func(p *translator.Packet) error { return h.Dataplane.Inject(p) }
	o.Local.Deliver = func(p *translator.Packet, to mapping.Tag) error { return h.Dataplane.InjectInside(p, to) }
	if h.Local, err = local.New(o.Local); err != nil {
		return nil, err
	}
	if err := h.openFastPath(o, workloads); err != nil {
		return nil, err
	}
	if err := h.openShed(o); err != nil {
		return nil, err
	}
	seen := h.flowSources(o)
	h.Dataplane = dataplane.New(dataplane.Config{Translator: h.Translator, Local: h.Local, Log: o.Log, Open: o.Open, PerMapping: o.PerMapping,
		FirstUse: o.FirstUse, Flows: seen, Shed: h.shedQueues(o.Queues, true)})
	queues := o.Queues
	if o.OpenInside != nil {
		h.openInside(o, seen[min(queues, len(seen)):])
		queues *= 2
	}
	h.GRO = gro.New(gro.Config{Interfaces: o.GRO, Log: o.Log})
	h.Hub = monitor.NewHub(h.Translator, queues, func(s *monitor.Set) {
		if s == nil {
			h.observe(nil)
			return
		}
		h.observe(s)
	})
	return h, nil
}

// openInside makes the dataplane of workloads with IPv4 inside.
func (h *Host) openInside(o Options, seen []*flows.Queue) {
	h.Inside = dataplane.New(dataplane.Config{
		Translator: h.Translator, Local: h.Local, Log: o.Log, PerMapping: o.PerMapping, Inside: true, FirstQueue: o.Queues, Flows: seen,
		Shed: h.shedQueues(o.Queues, false),
		Open: func() (*tun.Device, error) {
			d, err := o.OpenInside()
			if err == nil {
				err = route.SetUpInside(d.Name())
			}
			return d, err
		},
	})
	h.Dataplane.Pair(h.Inside)
}

// observe has somebody see the packets of both devices.
func (h *Host) observe(o dataplane.Observer) {
	h.Dataplane.Observe(o)
	if h.Inside != nil {
		h.Inside.Observe(o)
	}
}

// named are the workloads that say where they are, in a part's terms.
func named[T any](workloads iter.Seq[Workload], as func(*Workload) T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for w := range workloads {
			if w.Interface != "" && !yield(as(&w)) {
				return
			}
		}
	}
}

func (h *Host) openFastPath(o Options, workloads iter.Seq[Workload]) (err error) {
	h.FastPath, err = openKernelPath(o, h.Routes.Ready(), named(workloads, (*Workload).located), h.Translator)
	if err != nil {
		return err
	}
	if h.FastPath.Manager != nil {
		h.parts.FastPath = h.FastPath
	}
	h.Diversion.divert, h.Diversion.interfaces = h.FastPath.diverts()
	h.Diversion.daemon = h.translated
	return nil
}

// Account has everybody's packets accounted for, the first most one by one. Call it
// before anything runs.
func (h *Host) Account(most int, owners func() iter.Seq2[netip.Prefix, Owner]) *accounting.Accounting {
	counts := func(slot uint32) (u accounting.Usage) {
		u.Violations, u.Denied = h.Translator.Violations(slot), h.Translator.Denials(slot)
		for _, n := range h.Shed.Dropped(slot) {
			u.Shed += n
		}
		if h.perMapping {
			t := h.trafficHere(slot)
			u.Daemon = t.Sent.Packets + t.Received.Packets
			h.addKernel(&t, slot)
			u.Sent, u.Received = accounting.Count(t.Sent), accounting.Count(t.Received)
		}
		return u
	}
	h.parts.Owners = owners
	h.parts.Accounts = accounting.New(most, h.places(h.Table(), nil), counts)
	return h.parts.Accounts
}

// Runner is everything that runs. Run returns nil when ctx ends it; Ready is closed
// when it does what it is there for.
type Runner interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// FastPathTask is the name of the fast path's task.
const FastPathTask = "fast path"

// Task is a runner with the name that people know it by.
type Task struct {
	Name string
	Runner
}

// translated is how many packets the daemon has translated, or passed on as IPv4.
func (h *Host) translated() uint64 {
	n := h.Dataplane.Translated()
	if h.Inside != nil {
		n += h.Inside.Translated()
	}
	return n
}

// Tasks are in the order in which they may end, the last first. Routes follow the
// device: begun at once, they would be complete on a killed predecessor's, which is
// there for a moment longer, and the daemon ready without a route. And they follow
// the guard: no packet is to come before what judges it. The fast path follows the
// routes.
func (h *Host) Tasks() []Task {
	tasks := []Task{{"device", h.Dataplane}}
	if h.Inside != nil {
		tasks = append(tasks, Task{"device of IPv4 inside", h.Inside})
	}
	tasks = append(tasks, Task{"guard", h.Guard}, Task{
		"routes", following{h.Routes, []<-chan struct{}{h.Dataplane.Ready(), h.Guard.Ready()}}})
	if r := h.FastPath.runner(); r != nil {
		tasks = append(tasks, Task{FastPathTask, r})
	}
	tasks = append(tasks, Task{"shedding", h.Shed})
	return append(tasks, Task{"local stack", h.Local}, Task{"udp gro", h.GRO})
}

// following is a runner that begins when others are ready.
type following struct {
	Runner
	first []<-chan struct{}
}

func (f following) Run(ctx context.Context) error {
	for _, ready := range f.first {
		select {
		case <-ready:
		case <-ctx.Done(): // it still cleans up
		}
	}
	return f.Runner.Run(ctx)
}

// Healthy says why packets are not translated as they should be, or nil; for who
// has seen that all tasks are ready.
func (h *Host) Healthy() error {
	if h.Dataplane.Device() == nil || h.Inside != nil && h.Inside.Device() == nil {
		return errors.New("the device is gone and is being made anew")
	}
	return h.FastPath.Insufficient()
}

// Cleanup removes what hosts with these options left in the kernel, in the order in
// which tasks end: what drops packets goes when nothing leads them here any more. One
// failure does not keep the rest from going.
func Cleanup(o Options, removed func(what string)) (errs []error) {
	for _, remove := range []func() error{
		func() error {
			all, err := attach.Cleanup(attach.Config{Device: o.Device})
			for _, what := range all {
				removed(what)
			}
			return err
		},
		func() error {
			return route.Cleanup(route.Config{Device: o.Device, SysctlDir: o.SysctlDir, StateDir: o.StateDir})
		},
		guard.Cleanup,
	} {
		if err := remove(); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
