//go:build linux

package route

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// childEnv makes this test program a manager that can be killed.
const childEnv = "NATLESS_ROUTE_CHILD"

type childConfig struct {
	Config  Config
	Desired Desired
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		fmt.Fprintln(os.Stderr, runChild(text))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runChild(text string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	m, err := New(c.Config)
	if err != nil {
		return err
	}
	if err := m.Set(c.Desired); err != nil {
		return err
	}
	go func() {
		<-m.Ready()
		fmt.Println("ready")
	}()
	return m.Run(context.Background())
}

// lab is a host with the device, an uplink to a network and an interface to
// workloads.
type lab struct {
	t             testing.TB
	host, net, wl *netns.NS
	config        Config
}

func newLab(t testing.TB) *lab {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "sysctl")
	l := &lab{t: t, host: netns.New(t, "host"), net: netns.New(t, "net"), wl: netns.New(t, "wl")}
	netns.Veth(t, l.host, "eth0", l.net, "eth0")
	netns.Veth(t, l.host, "wl0", l.wl, "eth0")
	l.host.IP("addr add 192.0.2.10/24 dev eth0")
	l.net.IP("addr add 192.0.2.20/24 dev eth0")
	l.host.IP("addr add fd00::1/64 dev wl0")
	l.wl.IP("addr add fd00::2/64 dev eth0")
	l.device()
	// A link comes up a moment after it was told to, and then its local routes.
	l.within(20*time.Second, "links are up", func() bool {
		return strings.Contains(l.host.IP("-6 route show table local"), "local fd00::1 ")
	})
	l.config = Config{Device: "natless0", StateDir: t.TempDir(), ManageSysctls: true, Log: slog.New(slog.DiscardHandler)}
	return l
}

func (l *lab) device() { l.host.IP("tuntap add natless0 mode tun") }

// start runs a manager until stop is called or the test ends.
func (l *lab) start(d Desired) (m *Manager, stop func() error) {
	l.t.Helper()
	m, err := New(l.config)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := m.Set(d); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go l.host.Do(func() { ended <- m.Run(ctx) })
	var result error
	stop = func() error {
		cancel()
		if ended != nil {
			result = <-ended
			ended = nil
		}
		return result
	}
	l.t.Cleanup(func() { _ = stop() })
	select {
	case <-m.Ready():
	case err := <-ended:
		l.t.Fatalf("manager ended: %v", err)
	case <-time.After(20 * time.Second):
		l.t.Fatal("manager not ready after 20 s")
	}
	return m, stop
}

// startAndKill runs a manager in a program of its own and kills it with
// SIGKILL once it is ready.
func (l *lab) startAndKill(d Desired) {
	l.t.Helper()
	c := l.config
	c.Log = nil // the default: to standard error, shown when it fails
	text, err := json.Marshal(childConfig{c, d})
	if err != nil {
		l.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := l.host.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	defer time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() }).Stop()
	line, _ := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if line != "ready\n" {
		l.t.Fatalf("child said %q: %s", line, stderr.String())
	}
}

// snapshot is what the kernel has, as iproute2 sees it.
func (l *lab) snapshot() string {
	l.t.Helper()
	var b strings.Builder
	for _, c := range []string{
		"ip -4 route show table all", "ip -6 route show table all", "ip rule", "ip neigh show proxy",
		"grep -r --include=forwarding --include=accept_ra --include=rp_filter --include=accept_local --include=proxy_ndp --include=proxy_delay --include=proxy_qlen --include=ip_local_reserved_ports --include=ip_local_port_range --include=ip_forward ^ /proc/sys/net/ipv4 /proc/sys/net/ipv6",
	} {
		f := strings.Fields(c)
		b.WriteString("# " + c + "\n" + l.host.Run(f[0], f[1:]...) + "\n")
	}
	return b.String()
}

// ours counts what is marked as ours.
func (l *lab) ours() string {
	l.t.Helper()
	return lines(
		l.host.IP("-4 route show table all proto 110"),
		l.host.IP("-6 route show table all proto 110"),
		grep(l.host.IP("rule"), "proto 110"),
		grep(l.host.IP("neigh show proxy"), "proto 110"),
	)
}

func grep(text, what string) string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, what) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}

// soon is a second, in which things must be back, and room for the looking on a
// machine that is busy with other tests.
const soon = 3 * time.Second

// within waits until what holds.
func (l *lab) within(d time.Duration, what string, holds func() bool) {
	l.t.Helper()
	start := time.Now()
	for !holds() {
		if time.Since(start) > d {
			l.t.Fatalf("not within %v: %s\n%s", d, what, l.snapshot())
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Logf("%s: %v", what, time.Since(start).Round(time.Millisecond))
}

func (l *lab) must(what string, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}
