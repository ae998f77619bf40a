//go:build linux

// Package fastpath holds the kernel fast path against a daemon that is killed,
// upgraded and restarted under load, and against hosts that change beneath it.
// What one package can prove alone may not enter here.
package fastpath

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

const (
	workload1, workload1v4 = "2001:db8:6::2", "198.51.100.2"
	workload2, workload2v4 = "2001:db8:7::2", "198.51.100.3"
	server, serverv6       = "192.0.2.2", "2001:db8:64::c000:202"

	baseConfig = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}
  - {ipv6: "2001:db8:7::2", ipv4: 198.51.100.3}
`
	required = baseConfig + "fast_path: required\n"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// topology is two workloads and an IPv4-only server around a host.
type topology struct {
	t                    testing.TB
	w1, w2, host, server *netns.NS
	daemon               *daemon.Daemon
}

// newTopology makes the namespaces, and a daemon that is not started yet.
func newTopology(t testing.TB, config string) *topology {
	t.Helper()
	n := &topology{t: t, w1: netns.New(t, "w1"), w2: netns.New(t, "w2"), host: netns.New(t, "host"), server: netns.New(t, "server")}
	n.join(n.w1, "w1", "2001:db8:6::")
	n.join(n.w2, "w2", "2001:db8:7::")
	n.uplink()
	n.daemon = daemon.New(t, n.host, config)
	return n
}

// uplink links the server to the host.
func (n *topology) uplink() {
	n.t.Helper()
	netns.Veth(n.t, n.host, "uplink", n.server, "eth0")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
}

// join links a workload to the host.
func (n *topology) join(w *netns.NS, name, subnet string) {
	n.t.Helper()
	netns.Veth(n.t, w, "eth0", n.host, name)
	w.IP("addr add " + subnet + "2/64 dev eth0")
	n.host.IP("addr add " + subnet + "1/64 dev " + name)
	w.IP("route add default via " + subnet + "1")
}

// fastPath is what the daemon says of the fast path.
func (n *topology) fastPath() api.FastPath {
	n.t.Helper()
	s, err := n.daemon.Client().Status(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	return s.FastPath
}

// attached waits until the fast path is on at these interfaces.
func (n *topology) attached(names string) time.Duration {
	n.t.Helper()
	var o api.FastPath
	start := time.Now()
	for time.Since(start) < 20*time.Second {
		o = n.fastPath()
		var have []string
		for _, i := range o.Interfaces {
			if i.Error == "" {
				have = append(have, i.Name)
			}
		}
		if o.State == api.FastPathOn && o.Detail == "" && strings.Join(have, " ") == names {
			return time.Since(start)
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Fatalf("attached to %s: not after %v: %+v", names, time.Since(start), o)
	return 0
}

// kernel is how many packets the kernel translated.
func (n *topology) kernel() uint64 {
	n.t.Helper()
	o := n.fastPath()
	return o.Translated["forward4"].Packets + o.Translated["forward6"].Packets
}

var within = load.Within // waits

func (n *topology) ping(w *netns.NS, count int) error {
	out, err := w.Command("ping", "-n", "-c", fmt.Sprint(count), "-i", "0.05", "-W", "1", serverv6).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ping: %w\n%s", err, out)
	}
	return nil
}
