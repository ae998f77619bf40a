//go:build linux

// Command natlessd is the daemon: it reads the configuration, makes the tasks
// that do the work, and ties them together. What a task does stands in the
// package of the task.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/natless/natless/cmd/internal/usage"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
)

// version is set at build time by -ldflags.
var version = "development"

// misconfigured is the exit status that tells systemd that a restart changes
// nothing (EX_CONFIG of sysexits.h): the configuration is wrong, or the registry
// damaged. It is not 2, with which every Go program
// ends that panics, or that the watchdog aborts.
const misconfigured = 78

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var given usage.Daemon
	flags := given.Flags()
	flags.SetOutput(stderr)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "natlessd: %q: there are flags only; see --help\n", flags.Arg(0))
		return 2
	case given.Version:
		fmt.Fprintln(stdout, "natlessd", version)
		return 0
	}
	if given.Cleanup {
		return cleanUp(given.Config, stderr)
	}
	settle := spare()
	c, err := config.Load(given.Config)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return misconfigured
	}
	if _, err := registryPools(c, someUplink); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", given.Config, err)
		return misconfigured
	}
	for _, r := range c.Renamed() {
		fmt.Fprintln(stderr, "warning:", r)
	}
	if given.Check {
		fmt.Fprintf(stdout, "%s: nothing wrong\n", given.Config)
		return 0
	}
	level := new(slog.LevelVar)
	log := newLog(c.Log, level, stderr)
	if err := serve(c, given, settle, level, log); err != nil {
		log.Error("natlessd ends", "error", err)
		if refused := (*registry.RefusedError)(nil); errors.As(err, &refused) {
			return misconfigured
		}
		return 1
	}
	return 0
}

func newLog(c config.Log, level *slog.LevelVar, w io.Writer) *slog.Logger {
	level.Set(c.Level.Level())
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func serve(c *config.Config, given usage.Daemon, settle func(), level *slog.LevelVar, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := newServer(c, settle, given.Handover, log)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	r := &reloader{server: s, path: given.Config, level: level, hangup: hangup, config: c}
	r.attempts.LastSuccess = time.Now()
	ready := func() bool { return allReady(s.tasks()) == nil }
	a, err := newAPI(s, r, ready)
	if err != nil {
		return err
	}
	w, err := newWatchdog(s, r, a)
	if err != nil {
		return err
	}
	log.Info("natlessd starts", "version", version, "config", given.Config)
	err = s.run(ctx, tasksOf(newWeb(s, c, r, ready), append(s.tasks(), a, r, w)...))
	log.Info("natlessd has ended")
	return err
}
