//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// TestAssignmentsOutlivePools: a workload is served through what it was assigned
// as long as it has it, whatever becomes of its pool by a reload, over a restart
// too; when it gives it back the kernel is told nothing of it any more.
func TestAssignmentsOutlivePools(t *testing.T) {
	daemon.OnePath(t, "its configuration says fast_path: off")
	netns.Require(t, netns.Root, "curl")
	const (
		base = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
fast_path: off
`
		onLink = "pools: [{name: link, ipv4: 192.0.2.64/30, ports_per_workload: 1024}]\n"
		host   = "pools: [{name: host, ipv4: uplink, ports: 10240-20479, ports_per_workload: 1024}]\n"
	)
	moves := func(n *topology) {
		n.host.IP("addr add 192.0.2.9/24 dev uplink")
		n.host.IP("addr del 192.0.2.1/24 dev uplink")
		n.host.IP("addr replace 192.0.2.9/24 dev uplink")
	}
	for _, c := range []struct {
		name, before, after, address string
		then                         func(*topology)
		warns                        bool
	}{
		{"smaller", onLink, strings.Replace(onLink, "64/30", "66/31", 1), "192.0.2.64", nil, true},
		{"removed", onLink, "", "192.0.2.64", nil, true},
		{"renamed", onLink, strings.Replace(onLink, "link", "other", 1), "192.0.2.64", nil, false},
		{"other ports", onLink, strings.Replace(onLink, "ports_per", "ports: 40000-49999, ports_per", 1), "192.0.2.64", nil, false},
		{"host's narrowed", host, strings.Replace(host, "10240-", "16384-", 1), "192.0.2.1", nil, true},
		{"host's removed", host, "", "192.0.2.1", nil, true},
		{"host's renamed", host, strings.Replace(host, "host", "other", 1), "192.0.2.1", nil, false},
		{"host's narrowed and moved", host, strings.Replace(host, "10240-", "16384-", 1), "192.0.2.9", moves, true},
		{"host's renamed and moved", host, strings.Replace(host, "host", "other", 1), "192.0.2.9", moves, false},
		{"host's removed and the host moved", host, "", "192.0.2.1", moves, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNamespaces(t)
			n.daemon = daemon.Start(t, n.host, base+c.before)
			port := serveHTTP(t, n.server)
			w := n.put("one", workload1, n.w1, api.Request{})
			n.daemon.Write(base + c.after)
			if got := n.natless("reload"); got != "the configuration was reloaded\n" {
				t.Fatal(got)
			}
			if c.then != nil {
				c.then(n)
			}
			within(t, 5*time.Second, "the address", func() bool {
				got, err := n.daemon.Client().Get(t.Context(), w.Key)
				return err == nil && got.Address == netip.MustParseAddr(c.address)
			})
			served := func(when string) {
				t.Helper()
				n.server.IP("neigh flush dev eth0")
				got := ""
				within(t, 5*time.Second, when, func() bool { // when the host has moved, it is a moment until all follows
					out, err := n.w1.Command("curl", "-sS", "--max-time", "1", "-o", "/dev/null",
						fmt.Sprintf("http://[%s]:%s/1000", serverv6, port)).CombinedOutput()
					got = string(out)
					return err == nil
				})
				if peer := curl(t, n.w1, serverv6, port, 1000); peer != c.address {
					t.Errorf("%s: the server saw %s, want %s (%s)", when, peer, c.address, got)
				}
			}
			served("after the reload")
			if got := n.natless("status"); strings.Contains(got, "in no pool any more") != c.warns {
				t.Errorf("status:\n%s", got)
			}
			n.daemon.Kill()
			n.daemon.Start()
			served("after a restart")
			if got := n.natless("workloads", "delete", "one/eth0"); !strings.Contains(got, "gave back") {
				t.Fatal(got)
			}
			if !c.warns {
				return
			}
			within(t, 5*time.Second, "nothing of it in the kernel", func() bool {
				routes, rules := n.host.IP("route show table all proto 110"), n.host.IP("rule")
				neigh := n.host.IP("neigh show proxy")
				return !strings.Contains(routes, c.address+" ") && !strings.Contains(rules, "10240-") && !strings.Contains(neigh, c.address+" ")
			})
			if strings.HasPrefix(c.before, "pools: [{name: link") { // the host's own is never somebody else's
				words := append([]string{"explain"}, strings.Fields("ipv4 src "+c.address+" dst 198.51.100.1 udp sport 40000 dport 53")...)
				if got := n.natless(words...); !strings.Contains(got, "verdict  local") {
					t.Errorf("who has the address now is not heard:\n%s", got)
				}
			}
		})
	}
}

const hostUses = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
fast_path: off
pools:
  - {name: host, ipv4: uplink, ports: 10240-12287, ports_per_workload: 1024}
  - {name: other, ipv4: 198.51.100.8/32, ports_per_workload: 1024}
`

// TestHostUsesPorts: what the host has in its pool's range keeps nothing from
// starting; it is left out, said, and given away when it is free; and nobody on
// the host takes what comes to a workload.
func TestHostUsesPorts(t *testing.T) {
	daemon.OnePath(t, "its configuration says fast_path: off")
	netns.Require(t, netns.Root, "curl")
	n := newNamespaces(t)
	taken := load.ListenOn(t, n.host, ":10240")
	n.daemon = daemon.Start(t, n.host, hostUses)
	one := n.put("one", workload1, n.w1, api.Request{Pool: "host"})
	if one.Ports.String() != "11264-12287" {
		t.Fatalf("one has %v", one.Ports)
	}
	n.put("other", "2001:db8:9::1", n.w2, api.Request{Pool: "other"})
	q := api.Request{Pool: "host", IPv6: []netip.Addr{netip.MustParseAddr(workload2)}}
	if _, err := n.daemon.Client().Put(t.Context(), keyOf("two"), q); err == nil || !strings.Contains(err.Error(), "the host itself uses 1 ") {
		t.Errorf("two: %v", err)
	}
	for _, c := range [][]string{{"status", "tcp [::]:10240 listening"}, {"pools", "1 in use by the host"}} {
		if got := n.natless(c[0]); !strings.Contains(got, c[1]) {
			t.Errorf("natless %s does not say %q:\n%s", c[0], c[1], got)
		}
	}
	load.ListenOn(t, n.host, ":11264") // a workload's
	n.daemon.Kill()
	n.daemon.Start()
	port := serveHTTP(t, n.server)
	if peer := curl(t, n.w1, serverv6, port, 1000); peer != "192.0.2.1" {
		t.Errorf("the server saw %s", peer)
	}
	inside := load.ListenOn(t, n.w1, "[::]:11264")
	go func() {
		if c, err := inside.Accept(); err == nil {
			c.Read(make([]byte, 1)) // or the close is a reset
			c.Write([]byte("workload"))
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	if got := n.server.Run("sh", "-c", "curl -sS --http0.9 --max-time 3 http://192.0.2.1:11264 || true"); !strings.Contains(got, "workload") {
		t.Errorf("who listens on a workload's port got what came to it: %s", got)
	}
	// The same at a reload.
	listening := load.ListenOn(t, n.host, ":13000")
	n.daemon.Write(strings.Replace(hostUses, "10240-12287", "10240-13311", 1))
	if got := n.natless("reload"); got != "the configuration was reloaded\n" {
		t.Fatal(got)
	}
	within(t, 10*time.Second, "status says who listens", func() bool {
		return strings.Contains(n.natless("status"), "tcp [::]:10240 listening, tcp [::]:13000 listening")
	})
	listening.Close()
	taken.Close()
	within(t, 10*time.Second, "what is free is given away", func() bool {
		w, err := n.daemon.Client().Put(t.Context(), keyOf("two"), q)
		return err == nil && w.Ports.String() == "10240-11263"
	})
	if got := n.natless("status"); !strings.Contains(got, "host ports     ok") {
		t.Error(got)
	}
}
