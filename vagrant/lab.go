//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// The machines.
const (
	host   = "host"
	server = "server"
	client = "client"
)

// lab is three machines. It is all that differs between real ones and
// namespaces.
type lab interface {
	// command is a shell script to be run on a machine, as root. It ends with ctx.
	command(ctx context.Context, machine, script string) *exec.Cmd
	// file is where a file that was built lies on the machines.
	file(name string) string
	// service is systemctl's verb for natless's unit: start, stop, restart, reload or kill.
	service(ctx context.Context, verb string) error
	// install gives the host a package, and has the service run it.
	install(ctx context.Context, deb string) error
	// purge removes the package from the host.
	purge(ctx context.Context) error
	// script is the provisioning script on the machines.
	script() string
	// reboot restarts the host, and returns when it can be used again.
	reboot(ctx context.Context) error
	// systemd reports whether one runs on the host.
	systemd() bool
	// close leaves the machines to whoever made them.
	close()
}

// sh runs a script and gives its standard output, trimmed.
func sh(ctx context.Context, l lab, machine, script string) (string, error) {
	cmd := l.command(ctx, machine, script)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(stdout.String()), fmt.Errorf("%s: %s: %w\n%s%s", machine, script, err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// shJSON runs a script that prints JSON.
func shJSON(ctx context.Context, l lab, machine, script string, v any) error {
	out, err := sh(ctx, l, machine, script)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("%s: %s: %w in %q", machine, script, err, out)
	}
	return nil
}

// background is a probe that runs until its standard input is closed.
type background struct {
	what   string
	stdin  io.Closer
	out    bytes.Buffer
	stderr bytes.Buffer
	ready  chan struct{}
	ended  chan error
}

// start starts a script whose first line is "ready", and waits for that line.
func start(ctx context.Context, l lab, machine, script string) (*background, error) {
	cmd := l.command(ctx, machine, script)
	b := &background{what: machine + ": " + script, ready: make(chan struct{}), ended: make(chan error, 1)}
	var err error
	if b.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = b, &b.stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { b.ended <- cmd.Wait() }()
	select {
	case <-b.ready:
		return b, nil
	case err := <-b.ended:
		return nil, fmt.Errorf("%s: ended at once: %v\n%s", b.what, err, &b.stderr)
	case <-time.After(time.Minute):
		b.stdin.Close()
		return nil, fmt.Errorf("%s: not ready after a minute", b.what)
	}
}

// Write takes the program's standard output.
func (b *background) Write(p []byte) (int, error) {
	n, err := b.out.Write(p)
	if line, rest, ok := strings.Cut(b.out.String(), "\n"); ok && line == "ready" {
		b.out.Reset()
		b.out.WriteString(rest)
		close(b.ready)
	}
	return n, err
}

// end ends it and gives what it said.
func (b *background) end() (string, error) {
	b.stdin.Close()
	select {
	case err := <-b.ended:
		if err != nil {
			return "", fmt.Errorf("%s: %w\n%s", b.what, err, &b.stderr)
		}
		return b.out.String(), nil
	case <-time.After(time.Minute):
		return "", fmt.Errorf("%s: %w", b.what, errors.New("does not end"))
	}
}
