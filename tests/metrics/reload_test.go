//go:build linux

package metrics

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

// TestReloads: what is counted for a workload stays its own where a reload numbers
// the table anew, where its neighbours go and come, and where it goes and comes
// itself; with metrics by workload, and without.
func TestReloads(t *testing.T) {
	t.Run("counted", func(t *testing.T) { testReloads(t, config) })
	without := strings.Replace(config, `9464"}`, `9464", per_workload: false}`, 1)
	t.Run("not", func(t *testing.T) { testReloads(t, without) })
}

func testReloads(t *testing.T, config string) {
	n := newTopology(t, config)
	c := n.daemon.Client()
	one, two := n.workload.Key, api.Key{ContainerID: "c2", Interface: "eth0"}
	n.work.IP("addr add 2001:db8:6::3/64 dev eth0 nodad")
	put := func() {
		t.Helper()
		if _, err := c.Put(t.Context(), two, api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::3")}}); err != nil {
			t.Fatal(err)
		}
	}
	reload := func(more string) {
		t.Helper()
		n.daemon.Write(config + more)
		if _, err := c.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	violate := func(source string, count int) {
		t.Helper()
		socket := n.listen(n.work, netip.AddrPortFrom(netip.MustParseAddr(source), 9).String())
		defer socket.Close()
		for sent := 0; sent < count; { // an ICMP error of before may stand in the way
			if _, err := socket.WriteTo(make([]byte, 100), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(server6), 7))); err == nil {
				sent++
			}
		}
	}
	check := func(what string, first, second uint64) {
		t.Helper()
		var have [2]uint64
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for i, k := range []api.Key{one, two} {
				w, err := c.Get(t.Context(), k)
				if err != nil {
					t.Fatal(err)
				}
				have[i] = w.Violations
			}
			if have == [2]uint64{first, second} {
				return
			}
		}
		t.Errorf("%s: %d violations, want %d and %d", what, have, first, second)
	}
	put()
	violate("2001:db8:6::3", 5)
	check("at first", 0, 5)
	reload("mappings: [{ipv6: \"2001:db8:9::1\", ipv4: 203.0.113.1}, {ipv6: \"2001:db8:9::2\", ipv4: 203.0.113.2}]\n")
	check("after a reload", 0, 5)
	violate(workload6, 3)
	check("the other one's", 3, 5)
	reload("")
	check("after another reload", 3, 5)
	if err := c.Delete(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	put()
	check("gone and come back", 3, 0)
	violate("2001:db8:6::3", 2)
	reload("mappings: [{ipv6: \"2001:db8:9::1\", ipv4: 203.0.113.1}]\n")
	check("at last", 3, 2)
}
