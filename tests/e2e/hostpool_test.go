//go:build linux

package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const hostPoolConfig = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: host, ipv4: uplink, ports: 32768-65535, ports_per_workload: 512}
`

// TestHostPool: two workloads share the host's own address with the host, all
// three are served and serve, also after the address changed.
func TestHostPool(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "curl", "ping")
	n := newNamespaces(t)
	n.host.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 32767") // else the host's own sockets might be in the way
	n.daemon = daemon.Start(t, n.host, hostPoolConfig)
	one := n.put("one", workload1, n.w1, api.Request{})
	two := n.put("two", workload2, n.w2, api.Request{})
	check := func(host string) {
		t.Helper()
		port := serveHTTP(t, n.server)
		for name, ns := range map[string]*netns.NS{"one": n.w1, "two": n.w2} {
			if peer := curl(t, ns, serverv6, port, 1<<20); peer != host {
				t.Errorf("the server saw %s instead of %s for %s", peer, host, name)
			}
			ns.Run("ping", "-c", "2", "-i", "0.2", serverv6)
		}
		if peer := curl(t, n.host, server, port, 1<<20); peer != host {
			t.Errorf("the server saw %s for the host", peer)
		}
		n.host.Run("ping", "-c", "2", "-i", "0.2", server)
		hosts := serveHTTP(t, n.host)
		curl(t, n.server, host, hosts, 1<<20)
		in6 := "2001:db8:64::" + host
		curl(t, n.w1, in6, hosts, 1<<20) // the host itself, from a workload
		n.w2.Run("ping", "-c", "2", "-i", "0.2", in6)
	}
	if one.Address != netip.MustParseAddr("192.0.2.1") || two.Address != one.Address {
		t.Fatalf("%+v\n%+v", one, two)
	}
	check("192.0.2.1")
	if got := n.natless("status"); !strings.Contains(got, "anti-spoofing  ok") {
		t.Error(got)
	}
	n.host.IP("addr add 192.0.2.9/24 dev uplink")
	n.host.IP("addr del 192.0.2.1/24 dev uplink")
	n.host.IP("addr replace 192.0.2.9/24 dev uplink")
	n.host.IP("route replace 203.0.113.0/24 via 192.0.2.2")
	moved := netip.MustParseAddr("192.0.2.9")
	within(t, 5*time.Second, "the workloads at the host's new address", func() bool {
		w, err := n.daemon.Client().Get(t.Context(), one.Key)
		return err == nil && w.Address == moved && strings.Contains(n.host.IP("rule"), "to 192.0.2.9 ipproto udplite") // the last of them
	})
	check("192.0.2.9")
}
