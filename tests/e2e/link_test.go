//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// coveringConfig has a pool that covers the host (192.0.2.1), its gateway
// (192.0.2.2) and the network's address.
const coveringConfig = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: default, ipv4: 192.0.2.0/29, whole_address: true, cooldown: 0s}
`

func (n *topology) check(name string) (found api.Check) {
	n.t.Helper()
	status, err := n.daemon.Client().Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range status.Checks {
		if c.Name == name {
			return c
		}
	}
	n.t.Fatalf("no check %s in %+v", name, status.Checks)
	return found
}

// TestPoolOnLink: of a pool that lies in the uplink's subnet workloads get what is
// nobody's, and are served there; the rest is said, also when it changes.
func TestPoolOnLink(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "curl", "ping")
	n := newNamespaces(t)
	n.host.IP("route add default via 192.0.2.2")
	n.host.IP("link set gate mtu 1500")
	n.gate.IP("link set host mtu 1500")
	n.server.IP("route del default") // it is the gateway itself
	n.server.Run("sysctl", "-qw", "net.ipv4.neigh.eth0.base_reachable_time_ms=36000000")
	n.server.IP("neigh replace 192.0.2.3 lladdr 02:00:00:00:00:99 dev eth0 nud reachable") // where it was before
	n.daemon = daemon.Start(t, n.host, coveringConfig)
	one := n.put("one", workload1, n.w1, api.Request{})
	two := n.put("two", workload2, n.w2, api.Request{})
	if one.Address.String() != "192.0.2.3" || two.Address.String() != "192.0.2.4" {
		t.Fatalf("assigned %v and %v, want the first that are nobody's", one.Address, two.Address)
	}
	n.server.Run("ping", "-n", "-c", "1", "-W", "2", "192.0.2.3")
	port := serveHTTP(t, n.server)
	if peer := curl(t, n.w2, serverv6, port, 1<<16); peer != "192.0.2.4" {
		t.Errorf("the gateway saw %s", peer)
	}
	n.host.Run("ping", "-n", "-c", "1", "-W", "2", "192.0.2.3")
	n.w1.Run("ping", "-n", "-c", "1", "-W", "2", "2001:db8:64::192.0.2.1")
	n.host.Run("ping", "-n", "-c", "1", "-W", "2", server) // the host itself still finds its gateway
	if c := n.check("addresses"); c.State != "ok" || !strings.HasPrefix(c.Detail, "3 that pools or mappings cover are given to nobody: 192.0.2.0 is the network address") {
		t.Errorf("%+v", c)
	}
	if c := n.check("announcements"); c.State != "ok" || c.Detail == "0 sent" {
		t.Errorf("%+v", c)
	}
	if got := n.natless("pools"); !strings.Contains(got, "never assigned: it is a gateway on uplink") {
		t.Error(got)
	}
	n.diagnosed("a pool on the link", 0)

	n.host.IP("addr add 192.0.2.4/24 dev uplink")
	n.server.IP("addr add 192.0.2.5/24 dev eth0")
	within(t, 10*time.Second, "the host's new address is noticed", func() bool { return n.check("addresses").State == "warn" })
	if c := n.check("addresses"); !strings.Contains(c.Detail, "1 workloads have addresses that others hold") || !strings.Contains(c.Detail, "192.0.2.4 is the host's own on uplink") {
		t.Errorf("%+v", c)
	}
	n.diagnosed("a host with a workload's address, and a neighbour with one of the pool", 1, "fail way back", "warn addresses", "warn neighbours")
	if again := n.put("two", workload2, n.w2, api.Request{}); again.Address != two.Address {
		t.Errorf("the workload got %v meanwhile", again.Address)
	}
	n.server.IP("addr del 192.0.2.5/24 dev eth0")
	n.server.IP("neigh replace 192.0.2.5 lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
	for i := range 3 { // .5, .6, .7
		q := api.Request{IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%d", i+1))}}
		if _, err := n.daemon.Client().Put(t.Context(), keyOf(fmt.Sprint("more", i)), q); err != nil {
			t.Error(err)
		}
	}
	within(t, 10*time.Second, "the neighbour hears of an address's first workload", func() bool {
		return !strings.Contains(n.server.IP("neigh show 192.0.2.5"), "02:00:00:00:00:99")
	})
	q := api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:9::9")}}
	if w, err := n.daemon.Client().Put(t.Context(), keyOf("last"), q); err == nil || !strings.Contains(err.Error(), "held by others") {
		t.Errorf("there is nothing left, but %v, %v", w.Address, err)
	}
}

// TestDeadAddresses: what can never work on the links as they are is refused, at a
// reload and at the start, with the way out.
func TestDeadAddresses(t *testing.T) {
	daemon.OnePath(t, "it is about the configuration")
	n := newTopology(t, "uplink: uplink")
	n.host.IP("route add default via 192.0.2.2")
	for what, want := range map[string]string{
		"mappings: [{ipv6: \"2001:db8:6::2\", ipv4: 192.0.2.2}]":                "192.0.2.2 is a gateway on uplink",
		"mappings: [{ipv6: \"2001:db8:6::2\", ipv4: 192.0.2.255}]":              "192.0.2.255 is the broadcast address of 192.0.2.0/24 on uplink",
		"pools: [{name: a, ipv4: 192.0.2.1/32}]":                                "say ipv4: uplink",
		"icmp_source_pool: {ipv4: 192.0.2.1}\nmapped_blocks: [198.51.100.0/28]": "icmp_source_pool.ipv4: 192.0.2.1 is the host's own on uplink",
	} {
		n.daemon.Write("uplink: uplink\nprefix: 2001:db8:64::/96\naddresses: {ipv4: 198.51.100.1, ipv6: \"2001:db8::1\"}\n" + what)
		if got := n.natless("reload"); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", what, got, want)
		}
	}
	n.w1.Run("ping", "-n", "-c", "1", "-W", "2", serverv6) // as before
	n.daemon.Stop()
	n.daemon.Write(strings.Replace(baseConfig, "ipv4: 198.51.100.1,", "ipv4: 192.0.2.1,", 1) + "uplink: uplink\n")
	out, err := n.host.Command(filepath.Join(daemon.Build(t), "natlessd"), "--config", n.daemon.Config).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "addresses.ipv4: 192.0.2.1 is the host's own on uplink") {
		t.Errorf("started: %v\n%s", err, out)
	}
}

// TestDoctorLinkLocal: a host that has IPv6 on its links alone, and no IPv4 there,
// is well.
func TestDoctorLinkLocal(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about addresses")
	n := &topology{t: t, host: netns.New(t, "host"), server: netns.New(t, "server")}
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	dead(t, n.host, "127.0.0.1:53")
	n.daemon = daemon.Start(t, n.host, baseConfig+"uplink: uplink\ndns64: {enabled: true, upstreams: [\"127.0.0.1:53\"]}\n")
	within(t, 10*time.Second, "a link-local address", func() bool {
		return strings.Contains(n.host.IP("-6 addr show dev uplink"), "fe80::")
	})
	n.diagnosed("no address but link-local ones", 0)
	n.host.IP("addr add 169.254.7.7/16 dev uplink scope link")
	n.diagnosed("link-local ones of both families", 0)
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.diagnosed("and IPv4", 0)
	if _, _, report := n.examine(); !strings.Contains(report, "the translator answers at 198.51.100.1; 2001:db8::1 cannot be asked") {
		t.Error(report)
	}
}
