//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// reconcileEvery is how often namespaces are looked for.
const reconcileEvery = 30 * time.Second

// keeper is the registry with the engine behind it, and the task that frees what
// belongs to workloads that are gone.
type keeper struct {
	*registry.Registry
	engine *engine.Engine
	socket string // recorded releases lie beside it
	log    *slog.Logger
	ready  chan struct{}
	own    func(registry.Change) // is told who was given what, and who gave it back; may be nil
	wish   func(registry.Change) // as own, for who sheds
	first  *firstUse             // gives to who was not announced; nil in tests
	put    chan struct{}         // has an element when somebody was given something
	others published
}

// lender completes pools with blocks that the host has.
type lender = func([]registry.Pool, lease.State) ([]registry.Pool, error)

// openKeeper opens the registry and gives the table of the explicit mappings
// and all assignments. A mapping of the configuration comes before an
// assignment that it collides with.
func openKeeper(c *config.Config, pools []registry.Pool, lent lender, log *slog.Logger) (*keeper, *mapping.Table, error) {
	if err := os.MkdirAll(filepath.Dir(c.Registry.Path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("registry.path: %w", err)
	}
	table, err := c.Table()
	if err != nil {
		return nil, nil, err
	}
	r, err := registry.Open(registry.Options{Path: c.Registry.Path, History: c.Registry.History, Pools: pools, Lend: lent, Log: log})
	if err != nil {
		return nil, nil, err
	}
	k := &keeper{Registry: r, socket: c.API.Socket, log: log, ready: make(chan struct{}), put: make(chan struct{}, 1)}
	edit := table.Edit()
	edit.Expect(r.Len())
	for a := range mapping.Ahead(edit, placed(r.Each()), func(p place) mapping.Mapping { return p.mapping }) {
		if err := edit.Insert(a.mapping); err != nil {
			log.Error("a workload loses its assignment to a mapping of the configuration", "workload", a.key, "name", a.name, "error", err)
			if err := r.Delete(context.Background(), a.key); err != nil {
				r.Close()
				return nil, nil, err
			}
		}
	}
	return k, edit.Table(), nil
}

// place is what an assignment has in the table.
type place struct {
	key     api.Key
	name    string
	mapping mapping.Mapping
}

// placed yields places of assignments that are gone with the next; a place is to be kept.
func placed(all iter.Seq[*registry.Assignment]) iter.Seq[place] {
	return func(yield func(place) bool) {
		for a := range all {
			p := place{a.Key, a.Request.Name, a.Mapping()}
			if p.mapping.Ports.Len() == 1 { // which lies with the assignment
				p.mapping.Ports = ports.Of(p.mapping.Ports.Run(0))
			}
			if !yield(p) {
				return
			}
		}
	}
}

// serve ties the registry to the engine: what is on disk is put into effect.
// noInside says why no workload can have its IPv4 inside, where that is so.
func (k *keeper) serve(e *engine.Engine, noInside func() error) {
	k.engine = e
	check := func(c registry.Change) error {
		if c.New != nil && c.New.Inside().IsValid() {
			if err := noInside(); err != nil {
				return &registry.InsideError{Reason: err.Error()}
			}
		}
		if err := k.others.refuses(c, e.State().Routes.HostPool.Addr); err != nil {
			return err
		}
		return e.Check(changeOf(c))
	}
	k.SetSink(check,
		func(_ context.Context, c registry.Change) error {
			err := e.Edit(changeOf(c))
			if err == nil {
				if k.first != nil {
					k.first.changed(c)
				}
				k.owned(c)
				if k.wish != nil {
					k.wish(c)
				}
			}
			return err
		})
}

// owned tells of a change who wants to know.
func (k *keeper) owned(c registry.Change) {
	if k.own != nil {
		k.own(c)
	}
}

// Put is the registry's. Where a stale workload stands in the way it looks
// once whether that one is gone, since nobody may have said so.
func (k *keeper) Put(ctx context.Context, key api.Key, q api.Request) (*registry.Assignment, error) {
	before, _ := k.Get(key)
	if len(q.ExtraPorts) > 0 && (before == nil || len(before.Request.ExtraPorts) == 0) {
		k.others.look(k.log)
	}
	a, err := k.Registry.Put(ctx, key, q)
	var conflict *registry.ConflictError
	if errors.As(err, &conflict) && (k.reconcile(ctx) > 0 || k.announced(ctx, conflict.Owner, q)) {
		a, err = k.Registry.Put(ctx, key, q)
	}
	if full := (*registry.ExhaustedError)(nil); errors.As(err, &full) && k.first != nil {
		full.FirstUse = k.first.of(full.Usage.Name)
	}
	if err == nil && before != nil && (before.Request.HostInterface != a.Request.HostInterface ||
		before.Request.Name != a.Request.Name || !maps.Equal(before.Request.Labels, a.Request.Labels)) {
		// It keeps its assignment and is at another interface, or called otherwise, of
		// which the registry tells nobody.
		err = k.engine.Moved(*workloadOf(before), *workloadOf(a))
	}
	select {
	case k.put <- struct{}{}:
	default:
	}
	return a, err
}

// announced takes away what an address has by first use, since a workload is announced with
// it: whoever announces knows better. It reports whether there was something.
func (k *keeper) announced(ctx context.Context, owner api.Key, q api.Request) bool {
	had, err := k.Get(owner)
	if err != nil || !byFirstUse(owner) || !slices.Contains(q.IPv6, had.Request.IPv6[0]) || k.Delete(ctx, owner) != nil {
		return false
	}
	k.log.Info("a workload is announced whose address had an assignment by first use, which ends", "source", had.Request.IPv6[0], "name", q.Name)
	return true
}

// Ready is closed when what was given back before the start is free.
func (k *keeper) Ready() <-chan struct{} { return k.ready }

// Run frees what nobody gave back, until ctx is done; then the registry is
// closed. Without workloads it sleeps.
func (k *keeper) Run(ctx context.Context) error {
	k.releases(ctx)
	close(k.ready)
	k.reconcile(ctx)
	var tick <-chan time.Time
	for {
		if tick == nil && k.Len() > 0 {
			tick = time.After(reconcileEvery)
		}
		select {
		case <-ctx.Done():
			return k.Close()
		case <-k.put:
		case <-tick:
			tick = nil
			k.releases(ctx)
			k.reconcile(ctx)
			k.Unmap()
		}
	}
}

// releasesAtOnce is how many releases are asked of the registry at once, which
// writes what waits together: one by one, each would wait for the disk, and the
// start for thousands of them.
const releasesAtOnce = 256

// releases does what was to be deleted while no daemon was there.
func (k *keeper) releases(ctx context.Context) {
	all, err := api.Releases(k.socket)
	if err != nil {
		k.log.Warn("recorded releases", "error", err)
	}
	var group errgroup.Group
	group.SetLimit(releasesAtOnce)
	for _, r := range all {
		group.Go(func() error { k.releaseRecorded(ctx, r); return nil })
	}
	group.Wait()
}

func (k *keeper) releaseRecorded(ctx context.Context, r api.Release) {
	a, err := k.Get(r.Key)
	// An assignment from the future is of before the clock was set back.
	if err == nil && (!a.Since.After(r.At) || a.Since.After(time.Now())) {
		err = k.Delete(ctx, r.Key)
		k.log.Info("workload gave its assignment back while no daemon was there", "workload", r.Key, "error", err)
	}
	if err == nil || errors.Is(err, registry.ErrNotFound) {
		err = api.WithdrawRelease(k.socket, r.Key)
	}
	if err != nil {
		k.log.Warn("recorded release", "workload", r.Key, "error", err)
	}
}

// reconcile frees the assignments of namespaces that are gone and says how many.
func (k *keeper) reconcile(ctx context.Context) int {
	freed, err := k.Reconcile(ctx, func(context.Context) (func(string) bool, error) { return namespaceExists, nil })
	for _, a := range freed {
		k.log.Info("workload is gone, its assignment is free", "workload", a.Key, "name", a.Request.Name, "namespace", a.Request.Netns)
	}
	if err != nil && ctx.Err() == nil {
		k.log.Warn("free the assignments of workloads that are gone", "error", err)
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
	if filepath.Base(dir) == "ns" { // of /proc/PID/ns/net
		return !seesAllProcesses()
	}
	_, err := os.Stat(dir)
	return err != nil
}

// seesAllProcesses says that the process IDs that others name are ours. In a container
// that has its own, another's is never there.
func seesAllProcesses() bool {
	const initial = "pid:[4026531836]" // PROC_PID_INIT_INO, include/linux/proc_ns.h
	space, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && space == initial
}

// workloads are those that say where they are.
func (k *keeper) workloads() iter.Seq[engine.Workload] {
	return func(yield func(engine.Workload) bool) {
		for a := range k.Each() {
			if a.Request.HostInterface != "" && !yield(*workloadOf(a.Clone())) {
				return
			}
		}
	}
}

// owners are all who have something.
func (k *keeper) owners() iter.Seq2[netip.Prefix, engine.Owner] {
	return func(yield func(netip.Prefix, engine.Owner) bool) {
		for a := range k.Each() {
			if !yield(netip.PrefixFrom(a.Request.IPv6[0], 128), engine.Owner{Serial: a.Serial, Succeeds: a.Succeeds}) {
				return
			}
		}
	}
}

// noteInUse keeps what the host uses of its own address from workloads.
func (k *keeper) noteInUse(u route.InUse) {
	k.SetInUse(registry.Share{Address: u.Addr, Ports: u.Ports})
}
