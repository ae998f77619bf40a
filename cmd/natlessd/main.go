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

	"github.com/natless/natless/config"
)

// version is set at build time by -ldflags.
var version = "development"

const usage = `natlessd translates between IPv6-only workloads and IPv4, without state.

  natlessd --config FILE            run until SIGTERM or SIGINT
  natlessd --config FILE --check    say what is wrong with the configuration
  natlessd --version

SIGHUP reads the file again: it is swapped in whole, or refused and nothing
changes. Under systemd (Type=notify) it says when it is ready.

Exit status: 0 when it was asked to end, or --check found nothing wrong; 1 when
something failed; 2 when the command line or the configuration is wrong.

`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("natlessd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	path := flags.String("config", "/etc/natless/natless.yaml", "the configuration `file`")
	check := flags.Bool("check", false, "only check the configuration")
	showVersion := flags.Bool("version", false, "print the version")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "natlessd: %q: there are flags only; see --help\n", flags.Arg(0))
		return 2
	case *showVersion:
		fmt.Fprintln(stdout, "natlessd", version)
		return 0
	}
	c, err := config.Load(*path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if _, err := registryPools(c, someUplink); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", *path, err)
		return 2
	}
	if *check {
		fmt.Fprintf(stdout, "%s: nothing wrong\n", *path)
		return 0
	}
	level := new(slog.LevelVar)
	log := newLog(c.Log, level, stderr)
	if err := serve(c, *path, level, log); err != nil {
		log.Error("natlessd ends", "error", err)
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

func serve(c *config.Config, path string, level *slog.LevelVar, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := newServer(c, log)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	r := &reloader{server: s, path: path, level: level, hangup: hangup, config: c}
	a, err := newAPI(s, r, func() bool { return allReady(s.tasks()) == nil })
	if err != nil {
		return err
	}
	log.Info("natlessd starts", "version", version, "config", path)
	err = s.run(ctx, append(s.tasks(), a, r))
	log.Info("natlessd has ended")
	return err
}
