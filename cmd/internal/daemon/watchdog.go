//go:build linux

package daemon

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/natless/natless/config/api"
)

const (
	// batchPatience is for one batch of packets, which takes a millisecond.
	batchPatience = 2 * time.Second
	// answerPatience is for the API, on a machine with much to do.
	answerPatience = 5 * time.Second
	// reloadPatience is for the largest tables.
	reloadPatience = 5 * time.Minute
)

// watchdog is the task that tells the service manager that all gets on: queues,
// API and reloads. When something does not, it says nothing but in the log, and
// the service manager kills and restarts the daemon (WatchdogSec=), which is
// better than a host whose workloads have no IPv4.
type watchdog struct {
	*Daemon
	client    *api.Client   // of our own API, from inside: others have no part in its queues
	reloading *atomic.Int64 // since when, by uptime; 0: it is not
	every     time.Duration // 0: nobody asks
}

func newWatchdog(d *Daemon) (*watchdog, error) {
	timeout, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		return nil, fmt.Errorf("systemd's watchdog: %w", err)
	}
	return &watchdog{Daemon: d, client: api.NewClientBy(d.api.path, d.api.Dial), reloading: &d.reloader.since, every: timeout / 2}, nil
}

// Ready is always: the first answer is due only after the start.
func (w *watchdog) Ready() <-chan struct{} { return always() }

// Run answers until ctx is done.
func (w *watchdog) Run(ctx context.Context) error {
	if w.every <= 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := w.getsOn(ctx); err != nil {
				w.Log.Error("natlessd does not get on, the watchdog is not told otherwise", "error", err)
				continue
			}
			notify(w.Log, "WATCHDOG=1")
		}
	}
}

// getsOn says what hangs.
func (w *watchdog) getsOn(ctx context.Context) error {
	if err := w.host.Dataplane.Stalled(ctx, batchPatience); err != nil {
		return err
	}
	if since := w.reloading.Load(); since != 0 && uptime()-time.Duration(since) > reloadPatience {
		return fmt.Errorf("a reload takes more than %v", reloadPatience)
	}
	answer, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	if _, err := w.client.Status(answer); err != nil && ctx.Err() == nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}
