//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"
)

// space is a network namespace that only this process holds.
type space struct{ handle netns.NsHandle }

// newSpace makes a namespace on a thread that is thrown away.
func newSpace() (s *space, err error) {
	s = &space{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		s.handle, err = netns.New()
	}()
	<-done
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return s, nil
}

func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.handle) }

// do runs f in the namespace.
func (s *space) do(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(s.handle); err == nil {
			err = f()
		}
	}()
	<-done
	return err
}

// init keeps main on the main thread: children are killed when the thread that
// started them ends, and the main thread ends last.
func init() { runtime.LockOSThread() }

// command is a program in the namespace, that ends with ctx and with us. Only
// main may start it.
func (s *space) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.path(), name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// run runs a program and gives what it says; the error has it too.
func (s *space) run(ctx context.Context, line string) (string, error) {
	args := strings.Fields(line)
	out, err := s.command(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", line, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// topology is the three namespaces, and a fourth behind the server that is
// reached over a link with an MTU of 1400.
type topology struct{ workload, host, server, far *space }

// newTopology makes it; it is to be closed also after an error.
func newTopology(ctx context.Context) (n *topology, err error) {
	n = &topology{}
	for _, s := range []**space{&n.workload, &n.host, &n.server, &n.far} {
		if *s, err = newSpace(); err != nil {
			return n, err
		}
	}
	for _, s := range []struct {
		*space
		script string
	}{
		{n.workload, `link set lo up
			link add eth0 type veth peer name workload netns ` + n.host.path() + `
			link set eth0 up
			addr add 2001:db8:6::2/64 dev eth0 nodad
			route add default via 2001:db8:6::1`},
		{n.server, `link set lo up
			link add eth0 type veth peer name uplink netns ` + n.host.path() + `
			link set eth0 up
			addr add 192.0.2.2/24 dev eth0
			route add default via 192.0.2.1
			link add far mtu 1400 type veth peer name eth0 mtu 1400 netns ` + n.far.path() + `
			link set far up
			addr add 203.0.113.1/24 dev far`},
		{n.far, `link set lo up
			link set eth0 up
			addr add 203.0.113.2/24 dev eth0
			route add default via 203.0.113.1`},
		{n.host, `link set lo up
			link set workload up
			link set uplink up
			addr add 2001:db8:6::1/64 dev workload nodad
			addr add 192.0.2.1/24 dev uplink
			route add 203.0.113.0/24 via 192.0.2.2`},
	} {
		cmd := s.command(ctx, "ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(s.script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return n, fmt.Errorf("ip -batch: %w\n%s\n%s", err, s.script, out)
		}
	}
	_, err = n.server.run(ctx, "sysctl -qw net.ipv4.ip_forward=1")
	return n, err
}

func (n *topology) close() {
	for _, s := range []*space{n.workload, n.host, n.server, n.far} {
		if s != nil {
			s.handle.Close()
		}
	}
}
