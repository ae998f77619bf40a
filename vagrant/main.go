//go:build linux

// Command vagrant runs the end-to-end checks: natless's own Debian package on a
// host of containers, with an IPv4-only server and an IPv4-only client on
// networks of their own. The three are virtual machines (see Vagrantfile), or
// network namespaces that play them; the checks cannot tell. What natless does
// inside is not known here: all goes through its programs and real traffic.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const usage = `vagrant [-lab machines|namespaces] [-fast-path auto|off|required] [-dir vagrant]

runs the checks, one line each as TAP has it, and ends with 1 unless all are ok.

`

func main() {
	runtime.LockOSThread() // children die with the thread that starts them
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("vagrant", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	kind := flags.String("lab", "machines", "machines (of vagrant up) or namespaces")
	dir := flags.String("dir", "vagrant", "the `folder` of the Vagrantfile, with what make vagrant-build built")
	fastPath := flags.String("fast-path", "", "natless's `setting`; empty: its default")
	limit := flags.Duration("timeout", 20*time.Minute, "all of it")
	if flags.Parse(args) != nil {
		return 2
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	var l lab
	switch *kind {
	case "machines":
		l, err = newMachines(ctx, path)
	case "namespaces":
		l, err = newNamespaces(ctx, path)
	default:
		fmt.Fprintf(stderr, "-lab %q: machines or namespaces\n", *kind)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	defer l.close()
	t := &tester{lab: l, fastPath: *fastPath, out: stdout}
	if !t.run(ctx, checks) {
		return 1
	}
	return 0
}
