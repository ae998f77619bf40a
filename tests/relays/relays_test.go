//go:build linux

// Package relays holds several relays of a fleet against routing daemons that announce
// what they serve. What one relay can prove alone may not enter here.
package relays

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

const (
	pod, podv4 = "2001:db8:a::5", "203.0.113.5"
	far, farv6 = "192.0.2.99", "2001:db8:64::192.0.2.99"
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// network is
//
//	           ┌─ relay 0 ─┐
//	pod ── fab ┤           ├ up ── far
//	           └─ relay 1 ─┘
//
// where fab is a router of IPv6 and up one of IPv4. Routers run BIRD, relays that or FRR.
type network struct {
	t                 testing.TB
	pod, fab, up, far *netns.NS
	relays            [2]*netns.NS
	daemons           [2]*daemon.Daemon
}

func newNetwork(t *testing.T, announcer speaker) *network {
	t.Helper()
	netns.Require(t, netns.Root, "bird", "birdc")
	n := &network{t: t, pod: netns.New(t, "pod"), fab: netns.New(t, "fab"), up: netns.New(t, "up"), far: netns.New(t, "far")}
	netns.Veth(t, n.pod, "eth0", n.fab, "pod")
	netns.Veth(t, n.far, "eth0", n.up, "far")
	n.pod.IP("addr add 2001:db8:a::5/64 dev eth0")
	n.fab.IP("addr add 2001:db8:a::1/64 dev pod")
	n.far.IP("addr add 192.0.2.99/24 dev eth0")
	n.up.IP("addr add 192.0.2.1/24 dev far")
	n.pod.IP("route add default via 2001:db8:a::1")
	n.far.IP("route add default via 192.0.2.1")
	for _, r := range []*netns.NS{n.fab, n.up} {
		r.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.fib_multipath_hash_policy=1",
			"net.ipv6.fib_multipath_hash_policy=1")
	}
	for i := range n.relays {
		n.relays[i] = netns.New(t, fmt.Sprintf("relay%d", i))
		r := n.relays[i]
		netns.Veth(t, r, "fab", n.fab, fmt.Sprintf("relay%d", i))
		netns.Veth(t, r, "up", n.up, fmt.Sprintf("relay%d", i))
		r.IP(fmt.Sprintf("addr add 2001:db8:f%d::1/64 dev fab", i))
		n.fab.IP(fmt.Sprintf("addr add 2001:db8:f%d::2/64 dev relay%d", i, i))
		r.IP(fmt.Sprintf("addr add 10.0.%d.1/24 dev up", i))
		n.up.IP(fmt.Sprintf("addr add 10.0.%d.2/24 dev relay%d", i, i))
		r.IP(fmt.Sprintf("-6 route add 2001:db8:a::/64 via 2001:db8:f%d::2", i))
		r.IP(fmt.Sprintf("route add 192.0.2.0/24 via 10.0.%d.2", i))
		announcer.announces(n, i)
		n.daemons[i] = daemon.Start(t, r, fmt.Sprintf(relayConfig, i+1, i+1))
	}
	n.bird(n.fab, routerBIRD("ipv6", "2001:db8:f%d::2", "2001:db8:f%d::1"))
	n.bird(n.up, routerBIRD("ipv4", "10.0.%d.2", "10.0.%d.1"))
	return n
}

const relayConfig = `
uplinks: [up]
fabric: [fab]
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.%d, ipv6: "2001:db8::%d"}
relay: {ipv4: [203.0.113.0/24], linger: 2s}
`

// tell tells all relays that live the rules.
func (n *network) tell(epoch uint64, relays ...int) {
	n.t.Helper()
	rule := api.Rule{IPv4: netip.MustParsePrefix(podv4 + "/32"), IPv6: netip.MustParsePrefix(pod + "/128"), Lease: 1}
	for _, i := range relays {
		if got, err := n.daemons[i].Client().PutRules(n.t.Context(), api.RuleSet{Epoch: epoch, Rules: []api.Rule{rule}}); err != nil || got.State != api.RelayServes {
			n.t.Fatalf("relay %d: %+v, %v", i, got, err)
		}
	}
}

// ways waits until both routers send by these relays.
func (n *network) ways(relays ...int) time.Duration {
	n.t.Helper()
	return load.Within(n.t, time.Minute, fmt.Sprintf("ways by %v", relays), func() bool {
		return n.sends(n.fab, "-6 route show 2001:db8:64::/96", relays) && n.sends(n.up, "route show 203.0.113.0/24", relays)
	})
}

func (n *network) sends(router *netns.NS, show string, relays []int) bool {
	out := router.IP(show)
	for i := range n.relays {
		if strings.Contains(out, fmt.Sprintf("dev relay%d", i)) != (len(relays) > i && relays[i] == i || len(relays) == 1 && relays[0] == i) {
			return false
		}
	}
	return true
}

// translated is how many packets relays have translated, in the kernel or not.
func (n *network) translated() (all uint64) {
	n.t.Helper()
	for _, d := range n.daemons {
		s, err := d.Client().Status(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		all += s.Verdicts["forward4"] + s.Verdicts["forward6"]
	}
	return all
}

// web asks a server again and again, by connections that stay and by new ones.
type web struct {
	stop, ended  chan struct{}
	asked, wrong atomic.Int64
	err          atomic.Value
	longest      atomic.Int64
}

func (n *network) web() *web {
	n.t.Helper()
	l := load.Listen(n.t, n.far)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("natless ", 500)) })}
	go server.Serve(l)
	n.t.Cleanup(func() { server.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	w := &web{stop: make(chan struct{}), ended: make(chan struct{})}
	go n.pod.Do(func() {
		defer close(w.ended)
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			default:
			}
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(farv6, port), 20*time.Second)
			if err == nil {
				err = w.ask(conn)
			}
			if err != nil {
				w.wrong.Add(1)
				w.err.Store(err.Error())
			}
		}
	})
	return w
}

// ask asks five times by a connection.
func (w *web) ask(conn net.Conn) error {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	defer client.CloseIdleConnections()
	for range 5 {
		began := time.Now()
		r, err := client.Get("http://natless/")
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err == nil && len(b) != 4000 {
			err = fmt.Errorf("%d bytes", len(b))
		}
		if err != nil {
			return err
		}
		w.longest.Store(max(w.longest.Load(), int64(time.Since(began))))
		w.asked.Add(1)
	}
	return nil
}

func (w *web) finish(t *testing.T) {
	t.Helper()
	close(w.stop)
	<-w.ended
	t.Logf("%d requests, %d wrong, the longest took %v", w.asked.Load(), w.wrong.Load(), time.Duration(w.longest.Load()))
	if w.wrong.Load() > 0 || w.asked.Load() < 20 {
		t.Errorf("%d requests, of which %d came to nothing: %v", w.asked.Load(), w.wrong.Load(), w.err.Load())
	}
}

// TestRelayKilled: of two relays the natlessd of one is killed under load. No connection ends.
// Hardly anything is lost, since the kernel goes on translating until the routers know: what is,
// is counted.
func TestRelayKilled(t *testing.T) {
	speakers(t, func(t *testing.T, n *network) {
		testFails(t, n, func() { n.daemons[0].Kill(); n.daemons[0].Release() })
		n.daemons[0].Start()
		t.Logf("and %v after its start that it is back", n.ways(0, 1))
	})
}

// TestRelayCutOff: of two relays one loses its links under load, as when its host dies. What
// is lost until the routers know is counted; no connection ends.
func TestRelayCutOff(t *testing.T) {
	speakers(t, func(t *testing.T, n *network) {
		testFails(t, n, func() { n.relays[0].IP("link set dev fab down"); n.relays[0].IP("link set dev up down") })
	})
}

// testFails has a relay fail under load.
func testFails(t *testing.T, n *network, fail func()) {
	t.Helper()
	netns.Require(t, netns.Root, "iperf3")
	n.tell(1, 0, 1)
	n.ways(0, 1)
	server := n.far.Command("iperf3", "-s", "--forceflush")
	if err := netns.Start(server); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	load.Within(t, 20*time.Second, "a server of iperf3", func() bool { return n.far.Command("iperf3", "-c", "127.0.0.1", "-n", "1").Run() == nil })
	client := n.pod.Command("iperf3", "-J", "-c", farv6, "-P", "8", "-t", "6", "-b", "10M", "--connect-timeout", "20000")
	var out bytes.Buffer
	client.Stdout = &out
	web := n.web()
	datagrams := []*load.Datagrams{}
	for range 4 { // by one or the other
		datagrams = append(datagrams, load.SendDatagrams(t, n.pod, n.far, farv6), load.SendDatagrams(t, n.far, n.pod, podv4))
	}
	streams := []*load.Stream{load.StartPaced(t, n.pod, n.far, farv6), load.StartPaced(t, n.far, n.pod, podv4), load.StartPaced(t, n.pod, n.far, farv6),
		load.StartPaced(t, n.far, n.pod, podv4)}
	if err := netns.Start(client); err != nil {
		t.Fatal(err)
	}
	before := n.translated()
	load.Within(t, 20*time.Second, "packets of iperf3", func() bool { return n.translated() > before+5000 })
	fail()
	t.Logf("the routers know after %v", n.ways(1))
	for i, d := range datagrams {
		sent, lost := d.Finish()
		t.Logf("flow %d: %d of %d datagrams lost, one a millisecond", i, lost, sent)
	}
	for _, s := range streams {
		s.Finish()
	}
	web.finish(t)
	if err := client.Wait(); err != nil {
		t.Fatalf("iperf3: %v\n%s", err, &out)
	}
	var r struct {
		Intervals []struct{ Streams []struct{ Bytes float64 } }
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Intervals) == 0 {
		t.Fatalf("%v\n%s", err, &out)
	}
	for i, s := range r.Intervals[len(r.Intervals)-1].Streams {
		if s.Bytes == 0 {
			t.Errorf("stream %d of iperf3 has stopped", i)
		}
	}
}

// TestRelayDrained: a relay that drains, by an operator's word or since it is stale, is
// preferred by nobody; one that ends is left before it does. Next to nothing is lost: BIRD
// replaces IPv6 routes in two steps.
func TestRelayDrained(t *testing.T) { speakers(t, testDrained) }

func testDrained(t *testing.T, n *network) {
	n.tell(1, 0, 1)
	n.ways(0, 1)
	var flows []*load.Datagrams
	for range 3 {
		flows = append(flows, load.SendDatagrams(t, n.pod, n.far, farv6), load.SendDatagrams(t, n.far, n.pod, podv4))
	}
	with := func(setting string) {
		t.Helper()
		config := fmt.Sprintf(relayConfig, 1, 1)
		n.daemons[0].Write(strings.Replace(config, "linger:", setting+", linger:", 1))
		if _, err := n.daemons[0].Client().Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	with("drain: true")
	n.ways(1)
	with("drain: false")
	n.ways(0, 1)
	with("stale_after: 5s") // told nothing meanwhile
	n.ways(1)
	with("stale_after: 10m")
	n.tell(2, 0)
	n.ways(0, 1)
	n.daemons[1].Stop() // it withdraws, and lingers
	n.ways(0)
	for i, f := range flows {
		if sent, lost := f.Finish(); lost > sent/20 || sent == 0 {
			t.Errorf("flow %d: %d of %d datagrams lost", i, lost, sent)
		}
	}
}

// TestRelayRestarts: a restart that hands over takes no route away that others were told of.
func TestRelayRestarts(t *testing.T) { speakers(t, testRestarts) }

func testRestarts(t *testing.T, n *network) {
	n.daemons[0].Flags = []string{"--handover"}
	n.daemons[0].Stop()
	n.daemons[0].Start()
	n.tell(1, 0, 1)
	n.ways(0, 1)
	watch := n.relays[0].Command("ip", "-o", "monitor", "route")
	var seen output.Buffer
	watch.Stdout = &seen
	if err := netns.Start(watch); err != nil {
		t.Fatal(err)
	}
	mark := func(table string) { // what is seen of it, all before was seen
		n.relays[0].IP("route add blackhole 192.0.2.77 table " + table)
		load.Within(t, 20*time.Second, "what a monitor of routes says", func() bool { return strings.Contains(seen.String(), "table "+table) })
	}
	load.Within(t, 20*time.Second, "a monitor of routes", func() bool {
		n.relays[0].IP("route add blackhole 192.0.2.78 table 776")
		n.relays[0].IP("route del blackhole 192.0.2.78 table 776")
		return strings.Contains(seen.String(), "table 776")
	})
	n.daemons[0].Stop()
	n.daemons[0].Start()
	load.Within(t, 20*time.Second, "a relay that serves", func() bool {
		r, err := n.daemons[0].Client().Relay(t.Context())
		return err == nil && r.State == api.RelayServes
	})
	mark("777")
	watch.Process.Kill()
	watch.Wait()
	if strings.Contains(seen.String(), "table 111") {
		t.Errorf("routes have changed:\n%s", &seen)
	}
	n.ways(0, 1)
}
