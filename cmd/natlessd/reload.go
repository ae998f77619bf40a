//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/natless/natless/config"
)

// reloader is the task that puts a new configuration in place of the running
// one, whole or not at all.
type reloader struct {
	*server
	path   string
	level  *slog.LevelVar
	hangup <-chan os.Signal
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
		}
		notify(r.log, "RELOADING=1\n"+daemon.SdNotifyMonotonicUsec())
		if err := r.reload(); err != nil {
			r.log.Error("reload refused, nothing has changed", "error", err)
		} else {
			r.log.Info("reloaded", "config", r.path, "mappings", r.translator.Table().Len())
		}
		notify(r.log, "READY=1")
	}
}

func (r *reloader) reload() error {
	next, err := config.Load(r.path)
	if err != nil {
		return err
	}
	if keys := config.NeedsRestart(r.config, next); keys != nil {
		return fmt.Errorf("%s: cannot change without a restart: %s", r.path, strings.Join(keys, ", "))
	}
	table, err := next.Table()
	if err != nil {
		return err
	}
	// The translator comes first: what the routes then bring finds its mapping.
	before, beforeTable := r.translator.Config(), r.translator.Table()
	if err := r.translator.Reload(next.Translator(r.key), table); err != nil {
		return err
	}
	if err := r.routes.Set(desired(next)); err != nil {
		if back := r.translator.Reload(before, beforeTable); back != nil {
			return fmt.Errorf("%w; going back: %w", err, back)
		}
		return err
	}
	r.level.Set(next.Log.Level.Level())
	r.config = next
	return nil
}

// notify tells systemd, if it started us.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Debug("notify systemd", "state", state, "error", err)
	}
}
