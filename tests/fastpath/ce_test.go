//go:build linux

package fastpath

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// Two CEs of one rule, with PSID 3 and PSID 11 of the next address: each has 64 ports behind
// each 1024.
const (
	ce3, ce3v4   = "2001:db8:1001:2300:0:cb00:7212:3", "203.0.114.18"
	ce11, ce11v4 = "2001:db8:1001:3b00:0:cb00:7213:b", "203.0.114.19"

	borderConfig = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
map:
  rules:
    - {ipv6: "2001:db8:1001::/48", ipv4: 203.0.114.16/28, ea_bits: 8}
fast_path: required
`
)

// newBorder is the topology with a border relay of MAP-T as host, whose workloads are CEs that
// keep to their first ports.
func newBorder(t *testing.T) *topology {
	t.Helper()
	n := newTopology(t, borderConfig)
	n.customer(n.w1, "2001:db8:6::", "2001:db8:1001:2300::/56", ce3, "1216 1279")
	n.customer(n.w2, "2001:db8:7::", "2001:db8:1001:3b00::/56", ce11, "1728 1791")
	return n
}

func (n *topology) customer(w *netns.NS, link, prefix, ce, ports string) {
	n.t.Helper()
	n.host.IP("route add " + prefix + " via " + link + "2")
	w.IP("addr add " + ce + "/128 dev lo")
	w.IP("-6 route replace default via " + link + "1 src " + ce)
	w.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range="+ports)
}

// rule is what the relay has counted by its rule.
func (n *topology) rule() api.MapRule {
	n.t.Helper()
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil || len(s.MAP) != 1 {
		n.t.Fatalf("rules: %+v, %v", s.MAP, err)
	}
	return s.MAP[0]
}

// killed kills the daemon and waits until the kernel has taken its device away, which it does
// when the last of what the daemon had under way is done.
func (n *topology) killed() {
	n.t.Helper()
	n.daemon.Kill()
	within(n.t, 5*time.Second, "the device is gone", func() bool { return !strings.Contains(n.host.IP("-o link"), "natless0") })
}

// reaches says that a connection of a workload comes about.
func (n *topology) reaches(w *netns.NS, port string, patience time.Duration) (err error) {
	w.Do(func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", net.JoinHostPort(serverv6, port), patience); err == nil {
			c.Close()
		}
	})
	return err
}

// TestCEsKilledUnderLoad: a border relay's natlessd is killed ten times under traffic of
// CEs. The kernel goes on, by the rule as well: no packet is lost, and the next daemon takes
// it over.
func TestCEsKilledUnderLoad(t *testing.T) {
	n := newBorder(t)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	both := []*traffic{n.trafficOf(n.w1, ce3v4), n.trafficOf(n.w2, ce11v4)}
	for i := range 10 {
		time.Sleep(100 * time.Millisecond)
		n.daemon.Kill()
		time.Sleep(300 * time.Millisecond)
		n.daemon.Start()
		n.attached("uplink w1 w2")
		if o := n.fastPath(); !o.Adopted {
			t.Fatalf("start %d: the fast path was not adopted: %+v", i, o)
		}
	}
	before := n.rule()
	within(t, 5*time.Second, "the rule counts what the kernel translates", func() bool {
		r := n.rule()
		return r.To4 > before.To4+200 && r.To6 > before.To6+200
	})
	if n.kernel() == 0 {
		t.Error("the kernel translates nothing")
	}
	for _, f := range both {
		f.finish(t, 3000)
	}
}

// TestCEsBesideAnotherWay: where the host leads a part of a rule's IPv4 elsewhere, nobody can say
// whose packets are while there is no daemon: then the kernel translates none. Connections
// outlive that.
func TestCEsBesideAnotherWay(t *testing.T) {
	n := newBorder(t)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	_, port, _ := net.SplitHostPort(load.Listen(t, n.server).Addr().String())
	n.killed()
	if err := n.reaches(n.w1, port, 20*time.Second); err != nil {
		t.Errorf("while the rule has the only way: %v", err)
	}
	n.daemon.Start()
	n.attached("uplink w1 w2")
	stream := load.StartPaced(t, n.w1, n.server, serverv6)
	n.host.IP("route add 203.0.114.30/32 dev uplink")
	within(t, 5*time.Second, "nobody translates beside another way", func() bool {
		time.Sleep(300 * time.Millisecond) // until the host's change is seen
		n.killed()
		err := n.reaches(n.w1, port, time.Second)
		n.daemon.Start()
		n.attached("uplink w1 w2")
		return err != nil
	})
	written := stream.Written()
	within(t, 20*time.Second, "the connection goes on", func() bool { return stream.Written() > written+100_000 })
	stream.Finish()
}

// TestCEsRequired: what fast_path: required cannot have beside rules of MAP-T is refused with
// the reason, and what was in force stays so.
func TestCEsRequired(t *testing.T) {
	n := newBorder(t)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	_, port, _ := net.SplitHostPort(load.Listen(t, n.server).Addr().String())
	works := func(what string) {
		t.Helper()
		before := n.kernel()
		for _, w := range []*netns.NS{n.w1, n.w2} {
			if err := n.reaches(w, port, 20*time.Second); err != nil {
				t.Errorf("%s: %s: %v", what, w.Name, err)
			}
		}
		if n.kernel() < before+8 {
			t.Errorf("%s: the kernel has translated %d packets", what, n.kernel()-before)
		}
	}
	works("one rule")
	for _, c := range []struct{ what, config, want string }{
		{"one rule too many", strings.Replace(borderConfig, "fast_path", manyRules(64)+"fast_path", 1), "map.rules: 65 are more than 64"},
		{"an edge", borderConfig + "edge: {enabled: true, prefix: \"2001:db8:f64::/96\"}\n", "edge"},
		{"mappings of many lengths", borderConfig + manyLengths(), "fast_path: required, but no fast path: mappings have IPv6 prefixes of over"},
		{"no prefix", strings.Replace(borderConfig, "prefix: 2001:db8:64::/96", "", 1), "a border relay needs a prefix"},
	} {
		n.daemon.Write(c.config)
		_, err := n.daemon.Client().Reload(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.what, err, c.want)
		}
		n.attached("uplink w1 w2")
		works("after " + c.what + " was refused")
	}
	n.daemon.Write(strings.Replace(borderConfig, "fast_path", manyRules(63)+"fast_path", 1))
	if _, err := n.daemon.Client().Reload(t.Context()); err != nil {
		t.Fatalf("64 rules: %v", err)
	}
	n.attached("uplink w1 w2")
	works("64 rules")
}

// manyRules are more rules, of other networks.
func manyRules(n int) (s string) {
	for i := range n {
		s += fmt.Sprintf("    - {ipv6: \"2001:db8:2%03x::/48\", ipv4: 203.0.%d.0/28, ea_bits: 8}\n", i, 120+i)
	}
	return s
}

// manyLengths are mappings whose IPv6 prefixes have more lengths than the programs know.
func manyLengths() string {
	s := "mappings:\n"
	for i := range 40 {
		s += fmt.Sprintf("  - {ipv6: \"2001:db8:3%03x::/%d\", ipv4: 198.51.100.%d/32}\n", i, 56+i, 10+i)
	}
	return s
}
