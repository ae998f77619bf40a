//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/shed"
)

// reloader puts a new configuration in place of the running one, whole or not
// at all, and follows the host where its addresses change. It is the task that
// does so at each SIGHUP.
type reloader struct {
	keeper *keeper
	engine *engine.Host
	path   string
	level  *slog.LevelVar
	hangup <-chan os.Signal
	boot   string // which boot of the host this is
	log    *slog.Logger

	one  sync.Mutex // held by who reloads; guards what follows
	host host       // but for what is taken

	read, compiled time.Duration // what reading the files took last, and making a state of them
	took           engine.Took   // and the rest

	since atomic.Int64 // since when somebody reloads, by uptime; 0: nobody does
	taken atomic.Pointer[route.Taken]

	wishes func(*config.Config)          // tells who sheds what is wanted
	wish   func(netip.Prefix, shed.Wish) // and of one mapping

	releasing time.Duration // what release took last; Run's own

	mu     sync.Mutex // guards what follows
	config *config.Config
	result api.Reload

	attempts metrics.Reloads
}

func newReloader(c *config.Config, d *Daemon, h host) *reloader {
	r := &reloader{keeper: d.keeper, engine: d.host, path: d.Path, level: d.Level, hangup: d.Hangup, boot: h.boot, log: d.Log, host: h, config: c}
	r.taken.Store(&h.taken)
	r.attempts.LastSuccess = time.Now()
	return r
}

var began = time.Now()

// uptime is how long this process runs, by the clock that nobody sets.
func uptime() time.Duration { return time.Since(began) }

// running is the configuration in force.
func (r *reloader) running() *config.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config
}

// last is what came of the last reload.
func (r *reloader) last() api.Reload {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.result
}

// Ready is always: a reload waits for nothing but a signal.
func (r *reloader) Ready() <-chan struct{} { return always() }

// Run reloads at each SIGHUP.
func (r *reloader) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.hangup:
			r.reload() // it has logged its error
		case a := <-r.engine.Routes.UplinkMoved():
			r.log.Warn("the host has another address on its uplink, workloads that share it follow", "address", a)
			if err := r.again(); err != nil {
				r.log.Error("follow the uplink's address", "error", err)
			}
		case taken := <-r.engine.Routes.Taken():
			r.follow(taken)
		case <-r.engine.GivenBack():
			if err := r.release(ctx); err != nil {
				r.log.Error("give back what no pool has any more", "error", err)
			}
		}
	}
}

const (
	// gather is how long what is given back waits for more.
	gather = time.Second
	// share bounds what taking it away may take of the time: a fifth.
	share = 4
)

// release takes from the translator and the kernel what workloads had outside of
// the pools. From now on it is somebody else's, whose packets are as good as others'.
func (r *reloader) release(ctx context.Context) error {
	select {
	case <-time.After(max(gather, share*r.releasing)):
	case <-ctx.Done():
		return nil
	}
	began := time.Now()
	defer func() { r.releasing = time.Since(began) }()
	return r.again()
}

// again puts the running configuration into force where the host or what workloads
// have asks for another state.
func (r *reloader) again() error {
	r.one.Lock()
	defer r.one.Unlock()
	return r.replace(r.running())
}

// bar has nobody be given what others hold.
func (r *reloader) bar(taken route.Taken) {
	r.host.taken = taken
	r.taken.Store(&taken)
	r.keeper.Bar(taken)
}

// follow does what the links' present addresses ask for.
func (r *reloader) follow(taken route.Taken) {
	r.one.Lock()
	defer r.one.Unlock()
	r.bar(taken)
	c := r.running()
	pools, err := r.pools(c)
	if err == nil {
		var state *engine.State
		if state, err = stateOf(c, pools, r.keeper.Outside(), r.host); err == nil &&
			slices.Equal(state.Translator.Pools4, r.engine.State().Translator.Pools4) {
			return
		}
	}
	r.log.Warn("the addresses on the host's links that pools cover have changed", "now", taken.Words(c.Covered(taken)))
	if err == nil {
		err = r.replace(c)
	}
	if err != nil {
		r.log.Error("follow the addresses on the host's links", "error", err)
	}
}

// reload reads the file again. Either all of it is in force afterwards, or
// nothing has changed and the error says why, or it is an *engine.StepError without
// a way back. Any goroutine may call it.
func (r *reloader) reload() error {
	r.one.Lock()
	defer r.one.Unlock()
	r.since.Store(int64(uptime()))
	defer r.since.Store(0)
	notify(r.log, "RELOADING=1\n"+daemon.SdNotifyMonotonicUsec())
	defer notify(r.log, "READY=1")
	result := api.Reload{At: time.Now()}
	settle := Spare()
	defer func() { go settle() }() // nobody needs to wait until all is collected
	err := r.load()
	switch half := (*engine.StepError)(nil); {
	case errors.As(err, &half) && half.Back != nil:
		result.Error = err.Error()
		r.log.Error("reload failed halfway", "error", err)
	case err != nil:
		result.Error = err.Error()
		r.log.Error("reload refused, nothing has changed", "error", err)
	default:
		r.log.Info("reloaded", "config", r.path, "mappings", r.engine.Table().Len(), "read", r.read, "compiled", r.compiled, "plan", r.took.Plan, "swap", r.took.Swap)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result = result
	r.count(result.At, err)
	return err
}

// load puts the configuration file into force.
func (r *reloader) load() error {
	began := time.Now()
	next, err := config.Load(r.path)
	if err != nil {
		return err
	}
	r.read = time.Since(began)
	taken, err := heldAddresses(next)
	if err != nil {
		return err
	}
	r.bar(taken)
	if keys := config.NeedsRestart(r.running(), next); keys != nil {
		return fmt.Errorf("%s: cannot change without a restart: %s", r.path, strings.Join(keys, ", "))
	}
	if err := r.replace(next); err != nil {
		return err
	}
	for _, renamed := range next.Renamed() {
		r.log.Warn("configuration", "renamed", renamed.String())
	}
	r.level.Set(next.Log.Level.Level())
	return nil
}

// replace puts a configuration into force. What is promised by it is on disk first;
// then engine and kernel go to its state, or stay; and last the registry assigns by
// its pools. A start after a crash between two of these does the rest.
func (r *reloader) replace(next *config.Config) error {
	pools, err := r.pools(next)
	if err != nil {
		return err
	}
	plan, err := r.keeper.Plan(pools, next.Registry.History)
	if err != nil {
		return err
	}
	moved, err := plan.Move()
	if err != nil {
		return err
	}
	outside := plan.Outside()
	if err := r.commit(next, pools, outside, moved); err != nil {
		if back := plan.Back(); back != nil {
			return fmt.Errorf("%w; and registry: going back: %w", err, back)
		}
		return err
	}
	plan.Commit()
	for _, c := range moved {
		r.keeper.owned(c)
	}
	defer r.wishes(r.running())
	if !slices.EqualFunc(outside, r.keeper.Outside(), sameShare) { // who came meanwhile was given of the old pools
		return r.commit(next, pools, r.keeper.Outside(), nil)
	}
	return nil
}

func sameShare(a, b registry.Share) bool {
	return a.Address == b.Address && a.Ports.Equal(b.Ports)
}

// commit has the engine go to the state of a configuration.
func (r *reloader) commit(next *config.Config, pools []registry.Pool, outside []registry.Share, moved []registry.Change) error {
	began := time.Now()
	state, err := stateOf(next, pools, outside, r.host)
	if err != nil {
		return err
	}
	r.compiled = time.Since(began)
	moves := make([]engine.Change, len(moved))
	for i, c := range moved {
		moves[i] = changeOf(c)
	}
	plan, err := r.engine.Plan(state, moves...)
	if err != nil {
		return err
	}
	if err := plan.Commit(); err != nil {
		return err
	}
	r.took = plan.Took()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.config = next; !next.Relay.Enabled() { // the fleet's rules are not the configuration's
		r.config = next.WithTable(r.engine.State().Explicit)
	}
	return nil
}

// counts is what came of all reloads so far.
func (r *reloader) counts() metrics.Reloads {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attempts
}

// count notes what came of a reload; the caller holds mu.
func (r *reloader) count(at time.Time, err error) {
	r.attempts.LastRefused = err != nil
	if err != nil {
		r.attempts.Refused++
		return
	}
	r.attempts.Succeeded++
	r.attempts.LastSuccess = at
}
