//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// reconcileEvery is how often namespaces are looked for.
const reconcileEvery = 30 * time.Second

// workloads is the registry, with the translator's table behind it, and the
// task that frees what belongs to workloads that are gone.
type workloads struct {
	*registry.Registry
	translator *translator.Translator
	guard      *guard.Manager
	fastPath   *fastPath
	accounts   *accounting.Accounting
	socket     string // recorded releases lie beside it
	log        *slog.Logger
	ready      chan struct{}
	assigned   func(netip.Addr) // told an address that has its first owner; may be nil
	put        chan struct{}    // has an element when somebody was given something
	// order is held from looking at the translator's table until guard and kernel
	// have been told of it: else one would be told of an older table last. The
	// registry's locks come before it.
	order sync.Mutex
	// Addresses of which somebody has what no pool has any more, and what tells
	// that some of it was given back.
	outside   atomic.Pointer[map[netip.Addr]bool]
	kept      atomic.Pointer[[]netip.Prefix] // of them, those that are not the host's
	givenBack chan struct{}
}

// openWorkloads opens the registry and gives the table of the explicit mappings
// and all assignments. A mapping of the configuration comes before an
// assignment that it collides with.
func openWorkloads(c *config.Config, pools []registry.Pool, log *slog.Logger) (*workloads, *mapping.Table, error) {
	if err := os.MkdirAll(filepath.Dir(c.Registry.Path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("registry.path: %w", err)
	}
	table, err := c.Table()
	if err != nil {
		return nil, nil, err
	}
	r, err := registry.Open(registry.Options{Path: c.Registry.Path, History: c.Registry.History, Pools: pools, Log: log})
	if err != nil {
		return nil, nil, err
	}
	w := &workloads{Registry: r, socket: c.API.Socket, log: log, ready: make(chan struct{}),
		put: make(chan struct{}, 1), givenBack: make(chan struct{}, 1)}
	edit := table.Edit()
	for _, a := range r.All() {
		if err := edit.Insert(a.Mapping()); err != nil {
			log.Error("a workload loses its assignment to a mapping of the configuration", "workload", a.Key, "name", a.Request.Name, "error", err)
			if err := r.Delete(context.Background(), a.Key); err != nil {
				r.Close()
				return nil, nil, err
			}
		}
	}
	return w, edit.Table(), nil
}

// reach is what must lead to the translator; it remembers what of it goes when
// it is given back.
func (w *workloads) reach(pools []registry.Pool, outside []registry.Share) reach {
	addresses := map[netip.Addr]bool{}
	for _, o := range outside {
		addresses[o.Address] = true
	}
	w.outside.Store(&addresses)
	r := reachOf(pools, outside, ownAddress)
	w.kept.Store(&r.kept)
	return r
}

// remember gives how to put back what reach remembers, for who finds that what he
// asked it for does not come into force.
func (w *workloads) remember() (putBack func()) {
	outside, kept := w.outside.Load(), w.kept.Load()
	return func() {
		w.outside.Store(outside)
		w.kept.Store(kept)
	}
}

// changed tells who must know that something was assigned or given back: look
// is called when a port was assigned that the host uses.
func (w *workloads) changed(c registry.Change, look func()) {
	if c.New != nil && w.InUse().Overlaps(c.New.Address, c.New.Ports) {
		look()
	}
	if outside := w.outside.Load(); c.Old != nil && outside != nil && (*outside)[c.Old.Address] {
		select {
		case w.givenBack <- struct{}{}:
		default:
		}
	}
}

// serve ties the registry to the translator that has the table.
func (w *workloads) serve(t *translator.Translator, look func()) {
	w.translator = t
	w.SetSink(
		func(c registry.Change) error { _, err := edited(t.Table(), c); return err },
		func(_ context.Context, c registry.Change) error {
			w.order.Lock()
			defer w.order.Unlock()
			if err := w.police(t.Table(), c); err != nil { // it may take a while: nobody's figures wait for it
				return err
			}
			err := t.Edit(func(table *mapping.Table) (*mapping.Table, error) {
				next, err := edited(table, c)
				if err == nil {
					w.accounts.Change(accounted(next, c))
				}
				return next, err
			})
			if err != nil {
				w.unpolice(t.Table(), c)
				return err
			}
			w.fastPath.follow(t.Table(), c)
			w.release(t.Table(), c)
			w.changed(c, look)
			w.announce(c)
			return nil
		})
}

// announce has the uplink's link told of an address that has got its first owner:
// who had it before may have been somewhere else.
func (w *workloads) announce(c registry.Change) {
	if w.assigned != nil && c.New != nil && (c.Old == nil || c.Old.Address != c.New.Address) && w.Alone(c.New) {
		w.assigned(c.New.Address)
	}
}

func edited(t *mapping.Table, c registry.Change) (*mapping.Table, error) {
	edit := t.Edit()
	if c.Old != nil {
		if err := edit.Remove(c.Old.Mapping()); err != nil && !errors.Is(err, mapping.ErrNotFound) {
			return nil, err
		}
	}
	if c.New != nil {
		if err := edit.Insert(c.New.Mapping()); err != nil {
			return nil, err
		}
	}
	return edit.Table(), nil
}

// tableOf is the explicit mappings of a configuration and what is assigned.
func tableOf(c *config.Config, assigned []*registry.Assignment) (*mapping.Table, error) {
	table, err := c.Table()
	if err != nil {
		return nil, err
	}
	edit := table.Edit()
	for _, a := range assigned {
		if err := edit.Insert(a.Mapping()); err != nil {
			return nil, fmt.Errorf("a workload has it (natless whois, natless workloads delete): %w", err)
		}
	}
	return edit.Table(), nil
}

// Put is the registry's. Where a stale workload stands in the way it looks
// once whether that one is gone, since nobody may have said so.
func (w *workloads) Put(ctx context.Context, k api.Key, q api.Request) (*registry.Assignment, error) {
	before, _ := w.Get(k)
	a, err := w.Registry.Put(ctx, k, q)
	var conflict *registry.ConflictError
	if errors.As(err, &conflict) && w.reconcile(ctx) > 0 {
		a, err = w.Registry.Put(ctx, k, q)
	}
	if err == nil {
		err = w.moved(before, a)
	}
	select {
	case w.put <- struct{}{}:
	default:
	}
	return a, err
}

// Ready is closed when what was given back before the start is free.
func (w *workloads) Ready() <-chan struct{} { return w.ready }

// Run frees what nobody gave back, until ctx is done; then the registry is
// closed. Without workloads it sleeps.
func (w *workloads) Run(ctx context.Context) error {
	w.releases(ctx)
	close(w.ready)
	w.reconcile(ctx)
	var tick <-chan time.Time
	for {
		if tick == nil && w.Len() > 0 {
			tick = time.After(reconcileEvery)
		}
		select {
		case <-ctx.Done():
			return w.Close()
		case <-w.put:
		case <-tick:
			tick = nil
			w.releases(ctx)
			w.reconcile(ctx)
		}
	}
}

// releasesAtOnce is how many releases are asked of the registry at once, which
// writes what waits together: one by one, each would wait for the disk, and the
// start for thousands of them.
const releasesAtOnce = 256

// releases does what was to be deleted while no daemon was there.
func (w *workloads) releases(ctx context.Context) {
	all, err := api.Releases(w.socket)
	if err != nil {
		w.log.Warn("recorded releases", "error", err)
	}
	var group errgroup.Group
	group.SetLimit(releasesAtOnce)
	for _, r := range all {
		group.Go(func() error { w.releaseRecorded(ctx, r); return nil })
	}
	group.Wait()
}

func (w *workloads) releaseRecorded(ctx context.Context, r api.Release) {
	a, err := w.Get(r.Key)
	// An assignment from the future is of before the clock was set back.
	if err == nil && (!a.Since.After(r.At) || a.Since.After(time.Now())) {
		err = w.Delete(ctx, r.Key)
		w.log.Info("workload gave its assignment back while no daemon was there", "workload", r.Key, "error", err)
	}
	if err == nil || errors.Is(err, registry.ErrNotFound) {
		err = api.WithdrawRelease(w.socket, r.Key)
	}
	if err != nil {
		w.log.Warn("recorded release", "workload", r.Key, "error", err)
	}
}

// reconcile frees the assignments of namespaces that are gone and says how many.
func (w *workloads) reconcile(ctx context.Context) int {
	freed, err := w.Reconcile(ctx, func(context.Context) (func(string) bool, error) { return namespaceExists, nil })
	for _, a := range freed {
		w.log.Info("workload is gone, its assignment is free", "workload", a.Key, "name", a.Request.Name, "namespace", a.Request.Netns)
	}
	if err != nil && ctx.Err() == nil {
		w.log.Warn("free the assignments of workloads that are gone", "error", err)
	}
	return len(freed)
}

// namespaceExists says false only when it is certain: a directory that is not
// there may be one that this daemon cannot see.
func namespaceExists(path string) bool {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	dir := filepath.Dir(path)
	if filepath.Base(dir) == "ns" { // of /proc/PID/ns/net, where the process is gone
		dir = "/proc/self"
	}
	_, err := os.Stat(dir)
	return err != nil
}
