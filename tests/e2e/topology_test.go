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

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// The addresses of the topology. The translator gives the two workloads their
// IPv4 addresses; IPv4 addresses are seen under the prefix by them.
const (
	workload1, workload1v4 = "2001:db8:6::2", "198.51.100.2"
	workload2, workload2v4 = "2001:db8:7::2", "198.51.100.3" // behind gate
	server, serverv6       = "192.0.2.2", "2001:db8:64::c000:202"
	far, farv6             = "203.0.113.2", "2001:db8:64::cb00:7102" // behind mid
	own4, own6             = "198.51.100.1", "2001:db8::1"
)

const baseConfig = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}
  - {ipv6: "2001:db8:7::2", ipv4: 198.51.100.3}
`

// topology is
//
//	w1 ───────── host ─── server ── mid ── far
//	w2 ── gate ──┘                └1400┘
//	      └1400┘
//
// with natlessd on host. Workloads and gate have no IPv4; server, mid and far
// have no IPv6. All links have an MTU of 1500 but those marked.
type topology struct {
	t                                    testing.TB
	w1, w2, gate, host, server, mid, far *netns.NS
	daemon                               *daemon.Daemon
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
	n.usesFastPath(more)
	return n
}

// usesFastPath wants the fast path on unless it was switched off: with auto all
// tests would pass without it, and tell nothing of it.
func (n *topology) usesFastPath(more []string) {
	n.t.Helper()
	if daemon.FastPath() == "off" || strings.Contains(strings.Join(more, "\n"), "fast_path:") {
		return
	}
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil || s.FastPath.State != api.FastPathOn {
		n.t.Fatalf("the fast path is %s: %s %v", s.FastPath.State, s.FastPath.Detail, err)
	}
}

func newNamespaces(t testing.TB) *topology {
	t.Helper()
	n := &topology{t: t, w1: netns.New(t, "w1"), w2: netns.New(t, "w2"), gate: netns.New(t, "gate"), host: netns.New(t, "host"),
		server: netns.New(t, "server"), mid: netns.New(t, "mid"), far: netns.New(t, "far")}
	for _, l := range []struct {
		a            *netns.NS
		nameA        string
		b            *netns.NS
		nameB        string
		addrA, addrB string
		mtu          int
	}{
		{n.w1, "eth0", n.host, "w1", "2001:db8:6::2/64", "2001:db8:6::1/64", 1500},
		{n.w2, "eth0", n.gate, "w2", "2001:db8:7::2/64", "2001:db8:7::1/64", 1500},
		{n.gate, "host", n.host, "gate", "2001:db8:8::2/64", "2001:db8:8::1/64", 1400},
		{n.host, "uplink", n.server, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1500},
		{n.server, "mid", n.mid, "server", "192.0.3.1/24", "192.0.3.2/24", 1400},
		{n.mid, "far", n.far, "eth0", "203.0.113.1/24", "203.0.113.2/24", 1500},
	} {
		netns.Veth(t, l.a, l.nameA, l.b, l.nameB)
		l.a.IP(fmt.Sprintf("addr add %s dev %s", l.addrA, l.nameA))
		l.b.IP(fmt.Sprintf("addr add %s dev %s", l.addrB, l.nameB))
		l.a.IP(fmt.Sprintf("link set %s mtu %d", l.nameA, l.mtu))
		l.b.IP(fmt.Sprintf("link set %s mtu %d", l.nameB, l.mtu))
	}
	n.gate.Run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	n.server.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.mid.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.w1.IP("route add default via 2001:db8:6::1")
	n.w2.IP("route add default via 2001:db8:7::1")
	n.gate.IP("route add default via 2001:db8:8::1")
	n.host.IP("route add 2001:db8:7::/64 via 2001:db8:8::2")
	n.host.IP("route add 203.0.113.0/24 via 192.0.2.2")
	n.server.IP("route add default via 192.0.2.1")
	n.server.IP("route add 203.0.113.0/24 via 192.0.3.2")
	n.mid.IP("route add default via 192.0.3.1")
	n.far.IP("route add default via 203.0.113.1")
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

// within waits; listen listens on any TCP port of a namespace.
var within, listen = load.Within, load.Listen
