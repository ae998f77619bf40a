//go:build linux

package endtoend

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/natless/natless/cmd/natless-fleet/etcd"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/cmd/natless-fleet/kube"
	"github.com/natless/natless/cmd/natless-fleet/kube/apiserver"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

var away = flag.Duration("away", 25*time.Second, "for how long the tests of a store that is away have it so")

// soon is when a fleet is of one mind again, on a machine that does much besides: two seconds
// where it does not.
const soon = 8 * time.Second

const awayHost = `
prefix: 64:ff9b:1::/96
addresses: {ipv4: 192.0.0.8, ipv6: "2001:db8:e0::1"}
pools: [{name: lent, from: fleet, ports_per_workload: 4096, cooldown: 1s, low_watermark: 12, high_watermark: 40}]
edge: {enabled: true, prefix: "2001:db8:f64::/96", host: "2001:db8:e0:1::/96"}
`

const awayRelay = `
uplinks: [up]
fabric: [fab]
prefix: 2001:db8:f64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8:f0:1::1"}
relay: {ipv4: [203.0.113.0/24, 10.64.0.0/16]}
`

// lab is pod ── host ── relay ── server, where the host speaks no IPv4 and the server no IPv6.
type lab struct {
	t           *testing.T
	pod         *netns.NS
	host, relay *daemon.Daemon
}

func newLab(t *testing.T) *lab {
	t.Helper()
	pod, host, relay, server := netns.New(t, "pod"), netns.New(t, "host"), netns.New(t, "relay"), netns.New(t, "server")
	netns.Veth(t, pod, "eth0", host, "pod")
	netns.Veth(t, host, "fab", relay, "fab")
	netns.Veth(t, relay, "up", server, "eth0")
	for ns, words := range map[*netns.NS][]string{
		pod:    {"-6 addr add 2001:db8:a::/64 dev eth0 nodad", "-6 route add default via fe80::1 dev eth0"},
		host:   {"-6 addr add fe80::1/64 dev pod nodad", "-6 route add 2001:db8:a::/64 dev pod", "-6 addr add 2001:db8:e0:f::1/64 dev fab nodad", "-6 route add default via 2001:db8:e0:f::2"},
		relay:  {"-6 addr add 2001:db8:e0:f::2/64 dev fab nodad", "-6 route add 2001:db8:e0::/48 via 2001:db8:e0:f::1", "addr add 192.0.2.1/24 dev up"},
		server: {"addr add 192.0.2.99/24 dev eth0", "route add default via 192.0.2.1"},
	} {
		for _, args := range words {
			ns.IP(args)
		}
	}
	for n := range 256 { // whom the tests make workloads of
		pod.IP("-6 addr add " + awayAddr(n).String() + "/128 dev eth0 nodad")
	}
	l := &lab{t: t, pod: pod, host: daemon.Start(t, host, awayHost), relay: daemon.Start(t, relay, awayRelay)}
	var c *net.UDPConn
	var err error
	server.Do(func() { c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7000}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadBuffer(4 << 20)
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return l
}

func awayAddr(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:a::%x", n+1)) }

// workload makes number n, and gives a socket of its that speaks with the server.
func (l *lab) workload(n int) (*net.UDPConn, error) {
	w, err := l.host.Client().Put(l.t.Context(), key(n), api.Request{IPv6: []netip.Addr{awayAddr(n)}, Name: fmt.Sprint("ns/", n), HostInterface: "pod"})
	if err != nil {
		return nil, err
	}
	from := &net.UDPAddr{IP: awayAddr(n).AsSlice(), Port: int(w.Run().First)}
	var c *net.UDPConn
	l.pod.Do(func() {
		c, err = net.DialUDP("udp6", from, &net.UDPAddr{IP: net.ParseIP("64:ff9b:1::192.0.2.99"), Port: 7000})
	})
	return c, err
}

// once sends one datagram and waits for its answer.
func once(c *net.UDPConn) error {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := c.Write([]byte("once")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 2000))
	return err
}

// flow sends a datagram each ten milliseconds until it is told to stop, and notes which come back.
type flow struct {
	sent []time.Time
	mu   sync.Mutex
	back map[uint64]bool
}

func (f *flow) run(c *net.UDPConn, stop <-chan struct{}) {
	c.SetReadBuffer(4 << 20) // this program may have to wait for a processor
	f.back = map[uint64]bool{}
	go func() {
		b := make([]byte, 2000)
		for {
			n, err := c.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n == 8 {
				f.mu.Lock()
				f.back[binary.BigEndian.Uint64(b)] = true
				f.mu.Unlock()
			}
		}
	}()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-stop:
			time.Sleep(2 * time.Second)
			c.Close()
			return
		case <-tick.C:
			n := uint64(len(f.sent))
			f.sent = append(f.sent, time.Now())
			c.Write(binary.BigEndian.AppendUint64(nil, n))
		}
	}
}

// lost are when those were sent that have not come back.
func (f *flow) lost() (at []time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, when := range f.sent {
		if !f.back[uint64(n)] {
			at = append(at, when)
		}
	}
	return at
}

// churn makes a workload each half second, has it speak with the server, and ends it.
func (l *lab) churn(stop <-chan struct{}, served *atomic.Int64) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(500 * time.Millisecond):
		}
		i := 100 + n%100
		c, err := l.workload(i)
		if err == nil {
			err = once(c)
			c.Close()
		}
		if err != nil {
			l.t.Errorf("workload %d of the churn: %v", n, err)
			return
		}
		if err := l.host.Client().Delete(l.t.Context(), key(i)); err != nil {
			l.t.Error(err)
			return
		}
		served.Add(1)
	}
}

// goesOn is what a fleet does while its store is away: what there is goes on without a packet lost, new
// workloads are served while ports last, and who was refused then is served soon after.
func goesOn(t *testing.T, s fleet.Store, f *program, leave, comeBack func()) {
	l := newLab(t)
	lend(t, s, 256)
	f.says("pool", "lent", "203.0.113.0/24")
	f.says("host", "one", "--fabric", "2001:db8:e0:1::/96")
	f.runs("controller", "--name", "a")
	f.runs("controller", "--name", "b")
	f.runs("relay", "--name", "east", "--socket", l.relay.Socket, "--machine-id", l.relay.Config)
	f.runs("agent", "--name", "one", "--socket", l.host.Socket, "--machine-id", l.host.Config)
	within(t, "a block", func() bool { return len(blocks(t, l.host)) > 0 })

	var flows [8]flow
	var all sync.WaitGroup
	stop, still := make(chan struct{}), make(chan struct{})
	for i := range flows {
		var c *net.UDPConn
		within(t, "a workload that speaks", func() bool {
			var err error
			if c, err = l.workload(i); err == nil {
				err = once(c)
			}
			return err == nil
		})
		all.Go(func() { flows[i].run(c, stop) })
	}
	within(t, "another block before it is needed", func() bool { return len(blocks(t, l.host)) > 1 })
	deltas := func() int { return strings.Count(l.relay.Log(), "a change of its rules") }
	within(t, "rules of the relay", func() bool { is, err := l.relay.Client().Relay(t.Context()); return err == nil && is.Count >= 258 })

	leave()
	left := time.Now()
	before, rounds := deltas(), atomic.Int64{}
	var churning sync.WaitGroup
	churning.Go(func() { l.churn(still, &rounds) })
	time.Sleep(*away)
	close(still)
	churning.Wait()
	time.Sleep(3 * time.Second) // what the last of them had has cooled down
	load, _ := os.ReadFile("/proc/loadavg")
	var last int
	var err error
	for last = 8; err == nil && last < 100; last++ {
		var c *net.UDPConn
		if c, err = l.workload(last); err == nil {
			if err := once(c); err != nil {
				t.Errorf("workload %d, of the ports that were left: %v", last, err)
			}
			c.Close()
		}
	}
	if !errors.Is(err, api.ErrExhausted) {
		t.Fatalf("when nothing is left: %v", err)
	}
	t.Logf("away for %v, at load %s: %d workloads came and went, and %d more found ports", *away, strings.TrimSpace(string(load)), rounds.Load(), last-1-8)

	comeBack()
	back := time.Now()
	var c *net.UDPConn
	within(t, "who was refused", func() bool { c, err = l.workload(last - 1); return err == nil })
	had := time.Since(back)
	within(t, "its first answer", func() bool { return once(c) == nil })
	t.Logf("when the store is back, who was refused has a block after %v, and its first answer after %v; changes that the relay was told: %d before, %d after",
		had.Round(time.Millisecond), time.Since(back).Round(time.Millisecond), before, deltas()-before)
	if had > soon {
		t.Errorf("that took longer than %v", soon)
	}
	if before == 0 || deltas() == before {
		t.Error("the relay was told no change")
	}
	time.Sleep(2 * time.Second)
	close(stop)
	all.Wait()
	sent, lost := 0, 0
	for i := range flows {
		sent += len(flows[i].sent)
		for _, at := range flows[i].lost() {
			lost++
			t.Logf("flow %d lost one %v after the store left, %v after it was back", i, at.Sub(left), at.Sub(back))
		}
	}
	if t.Logf("%d of %d datagrams lost", lost, sent); lost > 0 {
		t.Error("the store's absence has cost packets")
	}
}

// TestAway is that with etcd.
func TestAway(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	t.Parallel()
	server := newStore(t)
	endpoint := "http://" + server.server.Clients[0].Addr().String()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	goesOn(t, etcd.New(client, "/natless"), newFleet(t, "--etcd", endpoint), func() { server.server.Close() }, server.start)
}

// TestAwayOfKubernetes is that with a real kube-apiserver.
func TestAwayOfKubernetes(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	t.Parallel()
	server := apiserver.Start(t)
	s, err := kube.New(server.Config, "default")
	if err != nil {
		t.Fatal(err)
	}
	goesOn(t, s, newFleet(t, "--kubeconfig", apiserver.Kubeconfig(t, server.Config, "admin"), "--namespace", "default"), server.Kill, server.Again)
}
