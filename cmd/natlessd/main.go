//go:build linux

// Command natlessd is the daemon: it reads the configuration, makes the tasks
// that do the work, and ties them together. What a task does stands in the
// package of the task.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/natless/natless/cmd/internal/daemon"
	"github.com/natless/natless/cmd/internal/usage"
	"github.com/natless/natless/cmd/internal/version"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
)

// misconfigured is the exit status that tells systemd that a restart changes
// nothing (EX_CONFIG of sysexits.h): the configuration is wrong, or the registry
// damaged. It is not 2, with which every Go program
// ends that panics, or that the watchdog aborts.
const misconfigured = 78

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

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
	case given.Host && !given.Check:
		fmt.Fprintln(stderr, "natlessd: --host goes with --check")
		return 2
	case given.Version:
		fmt.Fprintln(stdout, "natlessd", version.String())
		return 0
	}
	if given.Cleanup {
		return daemon.CleanUp(given.Config, stderr)
	}
	settle := daemon.Spare()
	c, err := config.Load(given.Config)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return misconfigured
	}
	if _, err := daemon.Pools(c, daemon.SomeUplink); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", given.Config, err)
		return misconfigured
	}
	for _, r := range c.Renamed() {
		fmt.Fprintln(stderr, "warning:", r)
	}
	if given.Check {
		return check(c, given, stdout, stderr)
	}
	level := new(slog.LevelVar)
	log := daemon.NewLog(c.Log, level, stderr)
	if err := serve(c, given, settle, level, log); err != nil {
		if !errors.As(err, new(daemon.ToldError)) {
			log.Error("natlessd ends", "error", err)
		}
		if refused := (*registry.RefusedError)(nil); errors.As(err, &refused) {
			return misconfigured
		}
		return 1
	}
	return 0
}
