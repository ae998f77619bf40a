//go:build linux

// Package engine is told what a host should do, as one value, and makes it so:
// the translator, the routes, what polices workloads, and the kernel's fast path
// go from one state to another together, or stay. It plans without having anybody
// wait, commits in steps of which each has its way back, and edits one workload at
// a time, also while a plan is made. Who may have what, and where that is written
// down, is its callers' business: no file and no database may enter here.
package engine

import (
	"iter"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/internal/hugepages"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// State is what a host should do. Nobody changes one.
type State struct {
	Translator translator.Config
	Explicit   *mapping.Table // the RFC 6052 prefix, and the mappings that are no workload's
	Routes     route.Desired
	// Outside are addresses that lead here only for as long as workloads keep what
	// they have of them: when some of that is given back, another state is due.
	Outside map[netip.Addr]bool
	// Inside is what workloads with IPv4 inside need (mapping.Mapping.Inside).
	Inside Inside
}

// Inside says how packets of workloads with IPv4 inside come to the daemon.
type Inside struct {
	// Device is the TAP by which they come and go, such as "natless4"; "": no
	// workload may have IPv4 inside. It stays the same for as long as a host runs.
	Device string
}

// Workload is a mapping, and what guard and fast path must know of who has it.
type Workload struct {
	mapping.Mapping
	Addrs     []netip.Addr // all its IPv6 addresses
	Interface string       // the host's end of its link; "": routes tell
	Owner
	Subject policy.Workload // what policies select it by
}

// Owner is the assignment that a workload has its mapping by.
type Owner struct {
	Serial   uint64
	Succeeds uint64 // the same workload's before; 0: none
}

func (w *Workload) policed() guard.Workload {
	return guard.Workload{Mapping: w.Mapping, Addrs: w.Addrs, Interface: w.Interface}
}

func (w *Workload) located() attach.Workload {
	return attach.Workload{Mapping: w.Mapping, Interface: w.Interface}
}

// Change is one workload put, changed or gone: Old goes, New comes. Either may be nil.
type Change struct{ Old, New *Workload }

// Translator is what the engine asks of *translator.Translator.
type Translator interface {
	Table() *mapping.Table
	Config() translator.Config
	Reload(translator.Config, *mapping.Table) error
	Edit(func(*mapping.Table) (*mapping.Table, error)) error
}

// Guard is what the engine asks of *guard.Manager.
type Guard interface {
	Put(table *mapping.Table, come ...guard.Workload) error
	Delete(table *mapping.Table, gone ...guard.Workload)
	Plan(table *mapping.Table) (commit func(final *mapping.Table, since ...guard.Workload) error, err error)
}

// FastPath is what the engine asks of the kernel's translator. An error is for who
// insists on it: without, packets take the way through the daemon.
type FastPath interface {
	Edit(table *mapping.Table, gone, come []attach.Workload) error
	Configure(translator.Config) error
	Replace(*mapping.Table, translator.Config) error
	// Plan writes other tables beside those in force.
	Plan(*mapping.Table, translator.Config) FastPathPlan
}

// FastPathPlan is tables that are written beside those in force, and follow the edits
// of the table that they are of. Err says that they cannot be; Commit is Replace, and
// takes a moment.
type FastPathPlan interface {
	Edit(table *mapping.Table, gone, come []attach.Workload)
	Err() error
	Commit(*mapping.Table) error
	Drop()
}

// Routes is what the engine asks of *route.Manager.
type Routes interface {
	Set(route.Desired) error
	Look()
	Assigned(netip.Addr)
}

// Parts are what an engine works on.
type Parts struct {
	Translator Translator
	Guard      Guard
	FastPath   FastPath // nil: there is none
	Routes     Routes
	Accounts   *accounting.Accounting // nil: nobody counts by workload
	// Owners are all who have a mapping, for Accounts.
	Owners func() iter.Seq2[netip.Prefix, Owner]
	// Subjects are all whom policies may select. nil: nobody is there.
	Subjects func() iter.Seq2[netip.Prefix, policy.Workload]
	Log      *slog.Logger
}

// Engine keeps its parts of one mind. Its methods may be called by any goroutine.
type Engine struct {
	parts     Parts
	state     atomic.Pointer[State] // in force
	inUse     atomic.Pointer[route.InUse]
	givenBack chan struct{}

	one sync.Mutex // held by who plans, until the plan is committed or dropped; guards what follows
	// torn are the explicit mappings of which some may be in the table in force,
	// besides those of the state: going back to it failed.
	torn []*mapping.Table

	// mu orders changes of the table: who looks at it holds mu until guard and fast
	// path have been told, or one would be told of an older table last.
	mu    sync.Mutex
	since []Change // what changed since the plan under way began
	base  *mapping.Table
}

// New makes an engine of parts that are as state says.
func New(p Parts, state *State) *Engine {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{parts: p, givenBack: make(chan struct{}, 1)}
	e.state.Store(state)
	return e
}

// settle has what packets read of large tables stand on large pages of memory.
func (e *Engine) settle(table *mapping.Table, policies *policy.Table) {
	for _, t := range []struct {
		name   string
		large  bool
		memory hugepages.Parts
	}{{"table", table.Large(), table.Memory}, {"policies", policies.Large(), policies.Memory}} {
		if !t.large {
			continue
		}
		if n, err := hugepages.Advise(t.memory); err != nil {
			e.parts.Log.Debug("there are no large pages of memory", "for", t.name, "error", err)
		} else {
			e.parts.Log.Debug("large pages of memory", "for", t.name, "pages", n)
		}
	}
}

// State is what is in force.
func (e *Engine) State() *State { return e.state.Load() }

// Table is the table in force, with all workloads.
func (e *Engine) Table() *mapping.Table { return e.parts.Translator.Table() }

// GivenBack tells that something was given back of what is outside of the pools.
func (e *Engine) GivenBack() <-chan struct{} { return e.givenBack }

// Assigned says whether a workload, or a mapping, has a port of an address.
func (e *Engine) Assigned(a netip.Addr, port uint16) bool {
	table, addr := e.Table(), mapping.Addr4From(a)
	entry := table.Lookup4(addr)
	return entry != nil && (!entry.Shared() || table.Port(entry, addr, port) != nil)
}
