//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/natless/natless/tests/netns"
)

// lab is three namespaces: an IPv6-only workload, a host in the middle that
// routes and translates, and a server. The server has an IPv6 address besides,
// which is how forwarding without translation is measured.
type lab struct {
	ctx    context.Context
	prefix string
	files  string // directory for configurations and programs
}

const (
	workload6 = "2001:db8:6::2"
	forwarded = "2001:db8:4::2" // the server without translation
)

func newLab(ctx context.Context) (*lab, error) {
	l := &lab{ctx: ctx, prefix: fmt.Sprintf("natless-bench-%d-", os.Getpid())}
	var err error
	if l.files, err = os.MkdirTemp("", l.prefix); err != nil {
		return l, err
	}
	for _, ns := range []string{"w6", "x", "s4"} {
		if err := command("ip", "netns", "add", l.prefix+ns); err != nil {
			return l, err
		}
		if err := l.in(ns, "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0"); err != nil {
			return l, err
		}
	}
	veth := "ip link add eth0 netns %[1]s%[2]s type veth peer name %[2]s netns %[1]sx"
	return l, firstError(
		func() error { return l.in("x", fmt.Sprintf(veth+"; "+veth2, l.prefix, "w6", "s4")) },
		func() error {
			return l.in("w6", "ip link set eth0 up; ip addr add 2001:db8:6::2/64 dev eth0; ip route add default via 2001:db8:6::1")
		},
		func() error {
			return l.in("s4", "ip link set eth0 up; ip addr add 2001:db8:4::2/64 dev eth0; ip addr add 192.0.2.2/24 dev eth0;"+
				"ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:4::1")
		},
	)
}

const veth2 = `ip link add eth0 netns %[1]s%[3]s type veth peer name %[3]s netns %[1]sx
ip link set w6 up; ip link set s4 up
ip addr add 2001:db8:6::1/64 dev w6; ip addr add 2001:db8:4::1/64 dev s4; ip addr add 192.0.2.1/24 dev s4
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// close removes the namespaces.
func (l *lab) close() {
	for _, ns := range []string{"w6", "x", "s4"} {
		exec.Command("ip", "netns", "del", l.prefix+ns).Run()
	}
	os.RemoveAll(l.files)
}

// in runs shell commands in a namespace.
func (l *lab) in(ns, script string) error {
	return command("nsenter", "--net=/run/netns/"+l.prefix+ns, "sh", "-ec", script)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// cmd is a program in a namespace, to be started by netns.Start.
func (l *lab) cmd(ns, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(l.ctx, "nsenter", append([]string{"--net=/run/netns/" + l.prefix + ns, name}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Stderr = os.Stderr
	return c
}

// role is this program in another part, in a namespace.
func (l *lab) role(ns, role string, args ...any) *exec.Cmd {
	words := []string{role}
	for _, a := range args {
		words = append(words, fmt.Sprint(a))
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return l.cmd(ns, self, words...)
}

// background starts a role that waits for its standard input to end, and
// returns once it printed a line. end gives what it printed after that.
func (l *lab) background(ns, role string, args ...any) (end func() (string, error), err error) {
	c := l.role(ns, role, args...)
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	ready := &firstLine{rest: &out, seen: make(chan struct{})}
	c.Stdout = ready
	if err := netns.Start(c); err != nil {
		return nil, err
	}
	select {
	case <-ready.seen:
	case <-time.After(5 * time.Second):
		c.Process.Kill()
		c.Wait()
		return nil, fmt.Errorf("%s: not ready in 5 s", role)
	}
	return func() (string, error) {
		in.Close()
		err := c.Wait()
		return strings.TrimSpace(out.String()), err
	}, nil
}

// firstLine tells when the first line was written, and keeps the rest.
type firstLine struct {
	rest *bytes.Buffer
	seen chan struct{}
	done bool
}

func (f *firstLine) Write(b []byte) (int, error) {
	if f.done {
		return f.rest.Write(b)
	}
	if at := bytes.IndexByte(b, '\n'); at >= 0 {
		f.done = true
		f.rest.Write(b[at+1:])
		close(f.seen)
	}
	return len(b), nil
}

// output runs a role to its end and reads numbers off what it printed.
func (l *lab) output(ns, role string, args []any, numbers ...any) error {
	c := l.role(ns, role, args...)
	var out bytes.Buffer
	c.Stdout = &out
	err := netns.Start(c)
	if err == nil {
		err = c.Wait()
	}
	if err == nil {
		_, err = fmt.Sscan(out.String(), numbers...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	return nil
}
