//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// state is what a daemon may change in its host's kernel, as text.
func (n *topology) state() string {
	n.t.Helper()
	script := `
		ip -o link 2>/dev/null | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/ state .*//'
		ip -o addr | sed 's/^[0-9]*: //'
		for family in -4 -6; do
			ip $family route show table all; ip $family rule; ip $family neigh show proxy
		done
		nft list tables | sort | while read -r table; do nft -t list $table; done
		cd /proc/sys; grep -rs '' net/ipv4/conf net/ipv4/ip_* net/ipv6/conf | grep -v -e stable_secret -e natless0`
	return n.host.Run("bash", "-c", script)
}

// What a daemon made goes with it, and a killed one leaves nothing that the
// next would do twice.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "what is looked at is the same, and with the fast path there is more to leave")
	netns.Require(t, netns.Root, "nft")
	n := newNamespaces(t)
	before := n.state()
	n.daemon = daemon.Start(t, n.host, baseConfig+"uplink: uplink\n")
	running := n.state()
	if running == before {
		t.Fatal("the daemon changes nothing that is looked at")
	}
	n.daemon.Stop()
	if diff := cmp.Diff(lines(before), lines(n.state())); diff != "" {
		t.Errorf("left behind after SIGTERM:\n%s", diff)
	}
	for range 3 {
		n.daemon.Start()
		n.daemon.Kill()
	}
	n.daemon.Start()
	if diff := cmp.Diff(lines(running), lines(n.state())); diff != "" {
		t.Errorf("different after kill -9:\n%s", diff)
	}
	n.daemon.Stop()
	if diff := cmp.Diff(lines(before), lines(n.state())); diff != "" {
		t.Errorf("left behind after kill -9 and SIGTERM:\n%s", diff)
	}
}

func lines(s string) []string { return strings.Split(s, "\n") }

func TestDeletedBehindItsBack(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	streams := n.streams()
	running, routes := n.state(), n.routes()
	for _, what := range []string{
		"-6 route del 2001:db8:64::/96", "route del 198.51.100.2/31", "-6 route flush table main dev natless0",
		"link set natless0 down", "link del natless0",
	} {
		n.host.IP(what)
		back := within(t, 3*time.Second, "ip "+what+" is put right", func() bool { return n.routes() == routes })
		t.Logf("ip %s: put right after %v", what, back.Round(time.Millisecond))
		within(t, 3*time.Second, "all of the state is put right", func() bool { return n.state() == running })
		for _, s := range streams {
			s.Flows(10 * time.Second)
		}
	}
	for _, s := range streams {
		s.Finish()
	}
}

// routes is what of the state is quick to read.
func (n *topology) routes() string {
	return n.host.Run("bash", "-c", "ip -o link show natless0 | sed 's/^[0-9]*: //'; ip route show dev natless0; ip -6 route show dev natless0; true")
}

func (n *topology) streams() []*load.Stream {
	n.t.Helper()
	return []*load.Stream{
		load.StartStream(n.t, n.w1, n.server, serverv6), load.StartStream(n.t, n.server, n.w1, workload1v4),
		load.StartStream(n.t, n.w1, n.w2, "2001:db8:64::c633:6403"),
	}
}

func TestReloadUnderLoad(t *testing.T) {
	n := newTopology(t)
	streams := n.streams()
	for _, s := range streams {
		s.Flows(10 * time.Second)
		s.Finish() // bulk would fill queues, and lose datagrams that are not the reload's fault
	}
	flows := []*load.Datagrams{load.SendDatagrams(t, n.w1, n.server, serverv6), load.SendDatagrams(t, n.server, n.w1, workload1v4)}
	const reloads = 50
	for i := range reloads {
		var more strings.Builder
		more.WriteString(baseConfig)
		for j := range i % 10 * 100 {
			fmt.Fprintf(&more, "  - {ipv6: \"2001:db8:9::%x\", ipv4: 100.64.%d.%d}\n", j, j>>8, j&255)
		}
		fmt.Fprintf(&more, "traffic_class: %s\n", []string{"copy", "zero"}[i%2])
		n.reload(more.String(), "msg=reloaded")
	}
	for i, f := range flows {
		if sent, lost := f.Finish(); lost != 0 || sent < 500 {
			t.Errorf("flow %d: %d of %d datagrams lost over %d reloads", i, lost, sent, reloads)
		}
	}
}

// reload writes a configuration, asks for a reload and waits for its result.
func (n *topology) reload(config, result string) {
	n.t.Helper()
	before := strings.Count(n.daemon.Log(), result)
	n.daemon.Write(config)
	n.daemon.Signal(syscall.SIGHUP)
	within(n.t, 5*time.Second, result, func() bool { return strings.Count(n.daemon.Log(), result) > before })
}

func TestReloadRefused(t *testing.T) {
	daemon.OnePath(t, "it is about the configuration")
	n := newTopology(t)
	running := n.state()
	for config, why := range map[string]string{
		strings.Replace(baseConfig, "198.51.100.3", "198.51.100.2", 1): "which is mappings[0]",
		baseConfig + "device: {name: natless7}\n":                      "cannot change without a restart: device.name",
		strings.Replace(baseConfig, "2001:db8::1", "2001:db8::5", 1):   "cannot change without a restart: addresses.ipv6",
		"mtu: {ipv4: 1500": "must be specified",
	} {
		n.reload(config, "reload refused")
		if !strings.Contains(n.daemon.Log(), why) {
			t.Errorf("the log does not say %q", why)
		}
		if diff := cmp.Diff(lines(running), lines(n.state())); diff != "" {
			t.Errorf("%s: refused, and changed:\n%s", why, diff)
		}
		n.w1.Run("ping", "-n", "-c", "1", "-W", "2", serverv6)
	}
}

// The same connections live on over the death of the daemon: nobody remembers
// them but their ends.
func TestKilledUnderLoad(t *testing.T) {
	n := newTopology(t)
	streams := n.streams()
	for range 3 {
		for _, s := range streams {
			s.Flows(20 * time.Second)
		}
		n.daemon.Kill()
		time.Sleep(300 * time.Millisecond)
		n.daemon.Start()
	}
	for _, s := range streams {
		s.Flows(20 * time.Second)
		s.Finish()
	}
}
