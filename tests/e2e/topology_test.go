//go:build linux

// Package e2e holds real programs against real namespaces with a real natlessd
// between them. What one package can prove alone may not enter here.
package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// The addresses of the topology. The translator gives the two workloads their
// IPv4 addresses; IPv4 addresses are seen under the prefix by them.
const (
	workload1, workload1v4 = "2001:db8:6::2", "198.51.100.2"
	workload2, workload2v4 = "2001:db8:7::2", "198.51.100.3" // behind a link with an MTU of 1400
	server, serverv6       = "192.0.2.2", "2001:db8:64::c000:202"
	far, farv6             = "203.0.113.2", "2001:db8:64::cb00:7102" // behind server and a link with an MTU of 1400
	own4, own6             = "198.51.100.1", "2001:db8::1"
)

const baseConfig = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}
  - {ipv6: "2001:db8:7::2", ipv4: 198.51.100.3}
`

// topology is workloads — host — server — far. Workloads have no IPv4, server
// and far no IPv6 but what their loopbacks have.
type topology struct {
	t                         testing.TB
	w1, w2, host, server, far *netns.NS
	daemon                    *daemon.Daemon
}

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// newTopology makes the namespaces and starts natlessd with the base
// configuration and more lines.
func newTopology(t testing.TB, more ...string) *topology {
	t.Helper()
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, baseConfig+strings.Join(more, "\n"))
	return n
}

func newNamespaces(t testing.TB) *topology {
	t.Helper()
	n := &topology{t: t, w1: netns.New(t, "w1"), w2: netns.New(t, "w2"), host: netns.New(t, "host"), server: netns.New(t, "server"), far: netns.New(t, "far")}
	for i, w := range []*netns.NS{n.w1, n.w2} {
		name := fmt.Sprintf("w%d", i+1)
		netns.Veth(t, w, "eth0", n.host, name)
		n.host.IP(fmt.Sprintf("addr add 2001:db8:%d::1/64 dev %s", 6+i, name))
		w.IP(fmt.Sprintf("addr add 2001:db8:%d::2/64 dev eth0", 6+i))
		w.IP(fmt.Sprintf("route add default via 2001:db8:%d::1", 6+i))
	}
	n.host.IP("link set w2 mtu 1400") // the workload's end stays at 1500
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	netns.Veth(t, n.server, "far", n.far, "eth0")
	n.server.IP("link set far mtu 1400")
	n.server.IP("addr add 203.0.113.1/24 dev far")
	n.server.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.far.IP("addr add 203.0.113.2/24 dev eth0")
	n.far.IP("route add default via 203.0.113.1")
	n.host.IP("route add 203.0.113.0/24 via 192.0.2.2")
	return n
}

// serveHTTP serves files of any size in ns on all addresses: /N is N bytes of
// a pattern.
func serveHTTP(t testing.TB, ns *netns.NS) (port string) {
	t.Helper()
	l := listen(t, ns)
	srv := &http.Server{Handler: http.HandlerFunc(pattern)}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func listen(t testing.TB, ns *netns.NS) (l net.Listener) {
	t.Helper()
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// within waits until done says so.
func within(t testing.TB, d time.Duration, what string, done func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !done() {
		if time.Since(start) > d {
			t.Fatalf("%s: not within %v", what, d)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}
