//go:build linux

// Command probe is the traffic of the checks in vagrant/: it is copied to each
// machine, and serves there or talks to a server. It knows nothing of natless
// and imports nothing of it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
)

const usage = `probe serve ADDRESS:PORT    HTTP and UDP echo, until standard input ends
probe flow ADDRESS:PORT     a TCP and a UDP flow to such a server, until standard
                            input ends; then what became of them, as JSON
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage:\n%s", usage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	go func() {
		os.Stdin.Read(make([]byte, 1)) // whoever started this is gone, or has had enough
		end()
	}()
	switch args[0] {
	case "serve":
		return serve(ctx, args[1])
	case "flow":
		return flow(ctx, args[1])
	}
	return fmt.Errorf("%q: usage:\n%s", args[0], usage)
}
