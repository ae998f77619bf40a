//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/cmd/internal/systemd"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
)

// reloader puts a new configuration in place of the running one, whole or not
// at all. It is the task that does so at each SIGHUP.
type reloader struct {
	*server
	path   string
	level  *slog.LevelVar
	hangup <-chan os.Signal

	one   sync.Mutex   // held by who reloads
	since atomic.Int64 // since when somebody does, by uptime; 0: nobody does

	releasing time.Duration // what release took last; Run's own

	mu     sync.Mutex // guards what follows
	config *config.Config
	result api.Reload

	attempts metrics.Reloads
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
func (r *reloader) Ready() <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}

// Run reloads at each SIGHUP.
func (r *reloader) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.hangup:
			r.reload() // it has logged its error
		case a := <-r.routes.UplinkMoved():
			r.log.Warn("the host has another address on its uplink, workloads that share it follow", "address", a)
			r.one.Lock()
			if err := r.replace(r.running()); err != nil {
				r.log.Error("follow the uplink's address", "error", err)
			}
			r.one.Unlock()
		case taken := <-r.routes.Taken():
			r.follow(taken)
		case <-r.workloads.givenBack:
			if err := r.release(ctx); err != nil {
				r.log.Error("give back what no pool has any more", "error", err)
			}
		}
	}
}

// halfError: neither the new configuration is in force nor the one before.
type halfError struct{ why, back error }

func (e *halfError) Error() string {
	return fmt.Sprintf("%v; and going back: %v: parts of the new configuration are in force, until a reload succeeds or natlessd "+
		"is restarted", e.why, e.back)
}

func (e *halfError) Unwrap() []error { return []error{e.why, e.back} }

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
	r.one.Lock()
	defer r.one.Unlock()
	began := time.Now()
	defer func() { r.releasing = time.Since(began) }()
	return r.replace(r.running())
}

// reload reads the file again. Either all of it is in force afterwards, or
// nothing has changed and the error says why, or it is a *halfError. Any
// goroutine may call it.
func (r *reloader) reload() error {
	r.one.Lock()
	defer r.one.Unlock()
	r.since.Store(int64(uptime()))
	defer r.since.Store(0)
	notify(r.log, "RELOADING=1\n"+daemon.SdNotifyMonotonicUsec())
	defer notify(r.log, "READY=1")
	result := api.Reload{At: time.Now()}
	defer spare()()
	err := r.load()
	var half *halfError
	switch {
	case errors.As(err, &half):
		result.Error = err.Error()
		r.log.Error("reload failed halfway", "error", err)
	case err != nil:
		result.Error = err.Error()
		r.log.Error("reload refused, nothing has changed", "error", err)
	default:
		r.log.Info("reloaded", "config", r.path, "mappings", r.translator.Table().Len())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result = result
	r.count(result.At, err)
	return err
}

// load puts the configuration file into force.
func (r *reloader) load() error {
	next, err := config.Load(r.path)
	if err == nil {
		err = r.refuseHeld(next)
	}
	if err == nil {
		err = r.replace(next)
	}
	if err == nil {
		for _, renamed := range next.Renamed() {
			r.log.Warn("configuration", "renamed", renamed.String())
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.config = next
	}
	return err
}

// replace makes what the next configuration says of what the running one did.
func (r *reloader) replace(next *config.Config) error {
	if keys := config.NeedsRestart(r.running(), next); keys != nil {
		return fmt.Errorf("%s: cannot change without a restart: %s", r.path, strings.Join(keys, ", "))
	}
	pools, err := registryPools(next, route.UplinkAddr)
	if err != nil {
		return err
	}
	var undo func() error
	var undone error
	putBack := r.workloads.remember()
	err = r.workloads.Reconfigure(pools, next.Registry.History,
		func(_ iter.Seq[mapping.Mapping], outside []registry.Share) (err error) {
			if undo, err = r.swap(next, r.workloads.reach(pools, outside), r.workloads.Coming()); err != nil {
				putBack()
			}
			return err
		}, func() { putBack(); undone = undo() }) // where the registry's disk failed
	if undone != nil {
		return &halfError{err, undone}
	}
	if err == nil {
		r.level.Set(next.Log.Level.Level())
	}
	return err
}

// swap puts a configuration and what is assigned into the translator and the
// kernel. undo puts back what was before.
func (r *reloader) swap(next *config.Config, reach reach, assigned []*registry.Assignment) (undo func() error, err error) {
	table, err := tableOf(next, assigned)
	if err != nil {
		return nil, err
	}
	// The translator comes first: what the routes then bring finds its mapping.
	before, beforeTable, beforeKernel := r.translator.Config(), r.translator.Table(), *r.desired.Load()
	step := r.workloads.accounts.Plan(placesIn(table, assigned))
	translate := func() error { return r.renumber(before, beforeTable, step.Back()) }
	err = r.renumber(r.translation(next, reach), table, step)
	if err == nil {
		err = r.setRoutes(r.wanted(next, reach))
	}
	if err == nil {
		return func() error { return errors.Join(translate(), r.setRoutes(beforeKernel)) }, nil
	}
	if r.translator.Table() == beforeTable {
		return nil, err // it has come to nothing: they cannot be policed
	}
	if back := translate(); back != nil {
		return nil, &halfError{err, back}
	}
	return nil, err
}

// notify tells systemd, if it started us.
func notify(log *slog.Logger, state string) {
	if _, err := systemd.Notify(state); err != nil {
		log.Debug("notify systemd", "state", state, "error", err)
	}
}
