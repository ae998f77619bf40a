//go:build linux

// Command demo shows natless at work with real programs: an IPv6-only
// workload, the host with natlessd, and an IPv4-only server, each a network
// namespace without a name that is gone when this process is, however it ends.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo FOLDER-WITH-NATLESSD (run it by make demo)")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	start := time.Now()
	err := demo(ctx, os.Args[1])
	switch {
	case ctx.Err() != nil:
		fmt.Println("\ninterrupted; nothing is left behind")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
	fmt.Printf("\nAll as it should be, in %.0f seconds. Nothing is left behind.\n", time.Since(start).Seconds())
}

func demo(ctx context.Context, bin string) (err error) {
	dir, err := folder()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	n, err := newTopology(ctx)
	defer n.close()
	if err != nil {
		return err
	}
	d, err := startDaemon(ctx, n.host, filepath.Join(bin, "natlessd"), dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop(ctx)) }()
	fmt.Print(picture)
	t := newTable()
	for _, s := range steps {
		t.begin(s.what)
		result, err := s.run(ctx, n)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t.end(result, err)
	}
	return t.err
}

// folder makes a temporary one, and removes those of demos that were killed.
func folder() (string, error) {
	stale, _ := filepath.Glob(filepath.Join(os.TempDir(), "natless-demo-*"))
	for _, path := range stale {
		parts := strings.Split(filepath.Base(path), "-")
		if pid, err := strconv.Atoi(parts[2]); err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			os.RemoveAll(path)
		}
	}
	return os.MkdirTemp("", fmt.Sprintf("natless-demo-%d-", os.Getpid()))
}

const picture = `
  workload                     host with natlessd                 server
  2001:db8:6::2   ── IPv6 ──   prefix 2001:db8:64::/96   ── IPv4 ──   192.0.2.2
  no IPv4                      workload is 198.51.100.2           no IPv6

`

// table prints rows as they come.
type table struct {
	start time.Time
	err   error
}

func newTable() *table {
	fmt.Printf("  %-50s  %-4s  %s\n  %s  ────  %s\n", "what", "", "result", strings.Repeat("─", 50), strings.Repeat("─", 50))
	return &table{}
}

func (t *table) begin(what string) {
	fmt.Printf("  %-50s  ", what)
	t.start = time.Now()
}

func (t *table) end(result string, err error) {
	verdict := "ok"
	if err != nil {
		verdict, result = "FAIL", strings.ReplaceAll(err.Error(), "\n", "\n"+strings.Repeat(" ", 60))
		t.err = errors.New("something failed; the table says what")
	}
	fmt.Printf("%-4s  %s\n", verdict, strings.ReplaceAll(result, "\n", "\n"+strings.Repeat(" ", 60)))
}
