//go:build linux

package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Mode is how much the kernel's fast path is wanted.
type Mode uint8

const (
	FastPathAuto     Mode = iota // as far as the kernel can
	FastPathOff                  // not at all
	FastPathRequired             // or the daemon is not ready
)

// KernelPath is what the kernel translates by itself, where it does.
type KernelPath struct {
	*attach.Manager // nil where it does not
	Mode            Mode
	Why             string // not
	log             *slog.Logger
	insisting       *insisting // nil where it is not required
}

// openKernelPath starts the fast path as far as the options want it and the kernel
// supports it. If it is not used, openKernelPath removes what an earlier run left.
func openKernelPath(o Options, routed <-chan struct{}, workloads iter.Seq[attach.Workload], t *translator.Translator) (*KernelPath, error) {
	f := &KernelPath{Mode: o.FastPath, log: o.Log}
	c := attach.Config{Device: o.Device, Uplinks: o.Uplinks, Fabric: o.Fabric, XDP: o.XDP, Required: o.FastPath == FastPathRequired, Keep: o.Leave,
		After: routed, Log: o.Log,
		Inside: o.Inside, Steer: o.FastPath == FastPathOff}
	if o.Flows {
		c.Itemise, c.Sample = kernelRoom, o.FlowSample
	}
	if o.FastPath == FastPathOff && o.Inside == "" {
		removed, err := attach.Cleanup(c)
		for _, what := range removed {
			o.Log.Info("fast_path is off, removed what an earlier run left", "what", what)
		}
		return f, err
	}
	m, err := attach.New(c)
	if err != nil {
		if c.Required {
			return nil, fmt.Errorf("fast_path: required, but %w", err)
		}
		f.Why = err.Error()
		if _, err := attach.Cleanup(c); err != nil {
			return nil, fmt.Errorf("the fast path of an earlier run cannot be used and would go by old tables: %w", err)
		}
		o.Log.Info("kernel fast path", "state", "off", "not", f.Why)
		return f, nil
	}
	t.Formerly(m.Former())
	m.Hint(workloads)
	if err := m.Replace(t.Table(), t.Config()); err != nil && c.Required {
		return nil, fmt.Errorf("fast_path: required, but %w", err)
	}
	f.Manager = m
	if c.Required {
		f.insisting = &insisting{KernelPath: f, ready: make(chan struct{})}
	}
	return f, nil
}

// InsidePossible says why no workload can have its IPv4 address inside, or nil.
func (h *Host) InsidePossible() error {
	switch {
	case h.Inside == nil:
		return errors.New("there is no device for IPv4 inside of workloads (inside.device)")
	case h.FastPath.Manager == nil:
		return fmt.Errorf("IPv4 inside of workloads takes the kernel's programs: %s", h.FastPath.Why)
	}
	if err := h.FastPath.Unusable(); err != nil {
		return fmt.Errorf("IPv4 inside of workloads takes the kernel's programs, and they stand nowhere: %w", err)
	}
	return nil
}

// Edit, Configure and Replace are the manager's; only who required the fast path
// hears that it cannot be.
func (f *KernelPath) Edit(table *mapping.Table, gone, come []attach.Workload) error {
	return f.heard(f.Manager.Edit(table, gone, come))
}

// Configure see Edit.
func (f *KernelPath) Configure(c translator.Config) error { return f.heard(f.Manager.Configure(c)) }

// Replace see Edit.
func (f *KernelPath) Replace(table *mapping.Table, c translator.Config) error {
	return f.heard(f.Manager.Replace(table, c))
}

// Plan see Edit.
func (f *KernelPath) Plan(table *mapping.Table, c translator.Config) FastPathPlan {
	return kernelPlan{f.Manager.Plan(table, c), f}
}

type kernelPlan struct {
	*attach.Plan
	path *KernelPath
}

func (p kernelPlan) Err() error { return p.path.heard(p.Plan.Err()) }

func (p kernelPlan) Commit(table *mapping.Table) error { return p.path.heard(p.Plan.Commit(table)) }

func (f *KernelPath) heard(err error) error {
	if err == nil || f.Mode != FastPathRequired {
		return nil
	}
	return fmt.Errorf("fast_path: required, but %w", err)
}

// runner is the manager, if there is one; where it is required, it is ready when
// the kernel translates.
func (f *KernelPath) runner() Runner {
	switch {
	case f.Manager == nil:
		return nil
	case f.insisting != nil:
		return f.insisting
	}
	return f.Manager
}

// diverts is how every packet is made to take the way through the daemon, and
// at how many interfaces the kernel has another one.
func (f *KernelPath) diverts() (divert func(during time.Duration) error, interfaces func() int) {
	if f.Manager == nil {
		return nil, nil
	}
	return f.Divert, func() int { return len(f.Status().Interfaces) }
}

// What "required" means for the fast path: if the kernel does not support it, the daemon
// ends with the reason. If the kernel supports it and does not translate, because the
// uplink is missing or cannot be accelerated, or because another program is at the hook,
// the daemon is not ready, and gives the reason in its log, its status and its health
// check. Meanwhile it translates the packets itself.

const (
	// lookEvery is how often it looks until the kernel translates.
	lookEvery = 100 * time.Millisecond
	// sayEvery is how often it says that it does not.
	sayEvery = 30 * time.Second
)

// Insufficient says why the fast path is not what is required, or nil.
func (f *KernelPath) Insufficient() error {
	if f == nil || f.Mode != FastPathRequired || f.Manager == nil {
		return nil
	}
	return lacks(f.Status())
}

func lacks(s attach.Status) error {
	var errs []error
	uplinks := 0
	for _, i := range s.Interfaces {
		if i.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", i.Name, i.Error))
		} else if i.Uplink {
			uplinks++
		}
	}
	if !s.On || uplinks == 0 {
		errs = append(errs, errors.New(s.Detail))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("fast_path: required, but %w", errors.Join(errs...))
}

// insisting runs the fast path where it is required.
type insisting struct {
	*KernelPath
	ready chan struct{}
	once  sync.Once
}

// Ready is closed when the kernel translates for the first time.
func (i *insisting) Ready() <-chan struct{} { return i.ready }

// Run is the manager's.
func (i *insisting) Run(ctx context.Context) error {
	looking, cancel := context.WithCancel(ctx)
	var look sync.WaitGroup
	look.Go(func() { i.look(looking) })
	err := i.Manager.Run(ctx)
	cancel()
	look.Wait()
	return err
}

func (i *insisting) look(ctx context.Context) {
	select {
	case <-i.Manager.Ready():
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var said time.Time
	for {
		err := i.Insufficient()
		if err == nil {
			i.once.Do(func() { close(i.ready) })
			return
		}
		if time.Since(said) > sayEvery {
			said = time.Now()
			i.log.Error("natlessd is not ready", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
