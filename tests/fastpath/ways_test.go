//go:build linux

package fastpath

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const (
	pod, podv4 = "2001:db8:a::5", "198.51.100.5"
	far, farv6 = "203.0.113.5", "2001:db8:64::203.0.113.5"

	waysConfig = `
uplinks: [up0, up1]
fabric: [fab0, fab1]
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:a::5", ipv4: 198.51.100.5}
fast_path: required
`
)

// ways is a host with two ways to either side:
//
//	pod ──────── behind ══ relay ══ server ──1340── far
//
// behind and server are routers, of IPv6 and IPv4 alone.
type ways struct {
	*topology
	pod, behind, far *netns.NS
}

func newWays(t *testing.T) *ways {
	t.Helper()
	n := spread(t)
	n.daemon = daemon.Start(t, n.host, waysConfig)
	return n
}

// spread is that without a daemon.
func spread(t *testing.T) *ways {
	t.Helper()
	n := &ways{topology: &topology{t: t, host: netns.New(t, "relay"), server: netns.New(t, "server")},
		pod: netns.New(t, "pod"), behind: netns.New(t, "behind"), far: netns.New(t, "far")}
	for i := range 2 {
		netns.Veth(t, n.host, fmt.Sprintf("fab%d", i), n.behind, fmt.Sprintf("eth%d", i))
		netns.Veth(t, n.host, fmt.Sprintf("up%d", i), n.server, fmt.Sprintf("eth%d", i))
		n.host.IP(fmt.Sprintf("addr add 2001:db8:f%d::1/64 dev fab%d", i, i))
		n.behind.IP(fmt.Sprintf("addr add 2001:db8:f%d::2/64 dev eth%d", i, i))
		n.host.IP(fmt.Sprintf("addr add 10.0.%d.1/24 dev up%d", i, i))
		n.server.IP(fmt.Sprintf("addr add 10.0.%d.2/24 dev eth%d", i, i))
		n.host.IP(fmt.Sprintf("addr add 2001:db8:e%d::1/64 dev up%d", i, i))
		n.server.IP(fmt.Sprintf("addr add 2001:db8:e%d::2/64 dev eth%d", i, i))
	}
	netns.Veth(t, n.pod, "eth0", n.behind, "pod")
	netns.Veth(t, n.far, "eth0", n.server, "far")
	n.pod.IP("addr add 2001:db8:a::5/64 dev eth0")
	n.behind.IP("addr add 2001:db8:a::1/64 dev pod")
	n.far.IP("addr add 203.0.113.5/24 dev eth0")
	n.server.IP("addr add 203.0.113.1/24 dev far")
	for _, link := range []struct {
		ns       *netns.NS
		dev, mtu string
	}{{n.far, "eth0", "1340"}, {n.server, "far", "1340"}} {
		link.ns.IP("link set " + link.dev + " mtu " + link.mtu)
	}
	for _, ns := range []*netns.NS{n.host, n.behind, n.server} {
		ns.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.fib_multipath_hash_policy=1",
			"net.ipv6.fib_multipath_hash_policy=1", "net.ipv4.conf.all.ignore_routes_with_linkdown=1",
			"net.ipv6.conf.all.ignore_routes_with_linkdown=1", "net.ipv6.conf.all.keep_addr_on_down=1")
	}
	n.pod.IP("route add default via 2001:db8:a::1")
	n.far.IP("route add default via 203.0.113.1")
	n.pod.Run("sysctl", "-qw", "net.ipv6.icmp.ratelimit=0")
	n.far.Run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
	n.lead(everywhere)
	return n
}

// by is which ways each of those who have two takes: 0, 1 or 01.
type by struct{ behind, to6, to4, server string }

var everywhere = by{"01", "01", "01", "01"}

// lead has everybody take these ways.
func (n *ways) lead(b by) {
	n.t.Helper()
	route := func(ns *netns.NS, to, ways, hop string) {
		args := "route replace " + to
		for _, w := range strings.Split(ways, "") {
			args += " nexthop " + strings.ReplaceAll(hop, "%", w)
		}
		ns.IP(args)
	}
	route(n.behind, "default", b.behind, "via 2001:db8:f%::1 dev eth%")
	route(n.host, "2001:db8:a::/64", b.to6, "via 2001:db8:f%::2 dev fab%")
	if b.to4 == "6" {
		route(n.host, "203.0.113.0/24", "01", "via inet6 2001:db8:e%::2 dev up%")
	} else {
		route(n.host, "203.0.113.0/24", b.to4, "via 10.0.%.2 dev up%")
	}
	route(n.server, "198.51.100.0/24", b.server, "via 10.0.%.1 dev eth%")
}

// echoes answers TCP and UDP in a namespace.
func (n *ways) echoes(ns *netns.NS) (port string) {
	n.t.Helper()
	var l net.Listener
	var c net.PacketConn
	var err error
	ns.Do(func() {
		if l, err = net.Listen("tcp", ":0"); err == nil {
			_, port, _ = net.SplitHostPort(l.Addr().String())
			c, err = net.ListenPacket("udp", ":"+port)
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close(); c.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); io.Copy(conn, conn) }()
		}
	}()
	go func() {
		b := make([]byte, 1<<16)
		for {
			size, from, err := c.ReadFrom(b)
			if err != nil && errors.Is(err, net.ErrClosed) {
				return
			}
			c.WriteTo(b[:size], from)
		}
	}()
	return port
}

// exchange has somebody talk to an echo: connections, which take any of the ways, a
// datagram in fragments, and one to a port where nobody is.
func exchange(ns *netns.NS, address, port string) (err error) {
	patience := time.Now().Add(20 * time.Second)
	dial := func(network, port string) (net.Conn, error) {
		c, err := net.DialTimeout(network, net.JoinHostPort(address, port), time.Until(patience))
		if err == nil {
			c.SetDeadline(patience)
		}
		return c, err
	}
	speak := func(network string, size int) error {
		c, err := dial(network, port)
		if err != nil {
			return err
		}
		defer c.Close()
		said, heard := bytes.Repeat([]byte("natless!"), size/8), make([]byte, size)
		for range 5 {
			if _, err := c.Write(said); err != nil {
				return err
			}
			if network == "udp" { // it may be lost: a processor was not given in time
				c.SetReadDeadline(time.Now().Add(4 * time.Second))
			}
			if _, err = io.ReadFull(c, heard); err == nil && !bytes.Equal(said, heard) {
				return fmt.Errorf("%s: another answer", network)
			}
			if err == nil || network == "tcp" {
				return err
			}
		}
		return fmt.Errorf("%s of %d bytes: no answer", network, size)
	}
	refused := func() error {
		c, err := dial("udp", "9")
		if err != nil {
			return err
		}
		defer c.Close()
		for range 40 {
			c.Write([]byte("x"))
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			if _, err = c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNREFUSED) {
				return nil
			}
		}
		return fmt.Errorf("no refusal is heard: %w", err)
	}
	for i := range 12 {
		if err := speak("tcp", 40_000); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return errors.Join(speak("udp", 4000), speak("udp", 4000), refused())
}

// TestSeveralWays: whichever ways packets take to the host and from it, the kernel
// translates what is plain, and fragments, refusals and path MTUs find their way.
func TestSeveralWays(t *testing.T) {
	t.Parallel()
	n := newWays(t)
	n.attached("up0 up1 fab0 fab1")
	ports := map[*netns.NS]string{n.pod: n.echoes(n.pod), n.far: n.echoes(n.far)}
	for name, b := range map[string]by{
		"all by all":       everywhere,
		"there and back":   {"0", "1", "0", "1"},
		"back and there":   {"1", "0", "1", "0"},
		"one way in":       {"0", "01", "01", "1"},
		"all ways in":      {"01", "1", "0", "01"},
		"IPv6 next hops":   {"01", "01", "6", "01"}, // RFC 5549
		"next-hop objects": {"01", "", "", "01"},
	} {
		if b.to6 == "" {
			n.objects()
		} else {
			n.lead(b)
		}
		n.attached("up0 up1 fab0 fab1")
		before := n.fastPath()
		for _, side := range []struct {
			from, to *netns.NS
			address  string
		}{{n.pod, n.far, farv6}, {n.far, n.pod, podv4}} {
			var err error
			side.from.Do(func() { err = exchange(side.from, side.address, ports[side.to]) })
			if err != nil {
				t.Errorf("%s, to %s: %v\n%s", name, side.address, err, n.drops())
			}
		}
		after := n.fastPath()
		for _, verdict := range []string{"forward4", "forward6"} {
			if got := after.Translated[verdict].Packets - before.Translated[verdict].Packets; got < 100 {
				t.Errorf("%s: the kernel did %d packets by %s", name, got, verdict)
			}
		}
		for _, why := range []string{"wrong-interface", "host-route", "no-route"} {
			if got := after.Passed[why] - before.Passed[why]; got > 0 {
				t.Errorf("%s: %d packets were passed on: %s", name, got, why)
			}
		}
	}
	n.lead(by{"0", "1", "0", "1"})
	n.pathMTUs()
}

// objects has the host's routes lead to groups of next-hop objects.
func (n *ways) objects() {
	n.t.Helper()
	for i := range 2 {
		n.host.IP(fmt.Sprintf("nexthop add id %d via 2001:db8:f%d::2 dev fab%d", 60+i, i, i))
		n.host.IP(fmt.Sprintf("nexthop add id %d via 10.0.%d.2 dev up%d", 40+i, i, i))
	}
	n.host.IP("nexthop add id 6 group 60/61")
	n.host.IP("nexthop add id 4 group 40/41")
	n.host.IP("-6 route del 2001:db8:a::/64")
	n.host.IP("-6 route add 2001:db8:a::/64 nhid 6")
	n.host.IP("route replace 203.0.113.0/24 nhid 4")
}

// drops are what the host dropped of spoofed packets, for who looks for a reason.
func (n *ways) drops() string {
	s, err := n.daemon.Client().Status(context.Background())
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%+v %v\n%s", s.FastPath, s.Verdicts, n.host.Run("nft", "list", "ruleset"))
}

// pathMTUs: both ends learn of a narrow link on the other side, from routers that have no
// mapping and by another way than the packet took.
func (n *ways) pathMTUs() {
	n.t.Helper()
	learn := func(ns *netns.NS, address, want string) {
		n.t.Helper()
		within(n.t, 20*time.Second, "a path MTU to "+address, func() bool {
			ns.Do(func() {
				if c, err := net.Dial("udp", net.JoinHostPort(address, "9")); err == nil {
					c.Write(make([]byte, 1330))
					c.Close()
				}
			})
			time.Sleep(20 * time.Millisecond)
			return strings.Contains(ns.IP("route get "+address), want)
		})
	}
	learn(n.pod, farv6, "mtu 1360") // 1340 there, and 20 more here
	n.server.IP("link set far mtu 1500")
	n.far.IP("link set eth0 mtu 1500")
	n.behind.IP("link set pod mtu 1300")
	n.pod.IP("link set eth0 mtu 1300")
	learn(n.far, podv4, "mtu 1280")
}

// TestUplinkDown: a way that fails under load, on either side, ends no connection.
func TestUplinkDown(t *testing.T) {
	netns.Require(t, netns.Root, "iperf3")
	n := newWays(t)
	n.attached("up0 up1 fab0 fab1")
	server := n.far.Command("iperf3", "-s", "--forceflush")
	if err := netns.Start(server); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	client := n.pod.Command("iperf3", "-J", "-c", farv6, "-P", "8", "-t", "4", "-b", "20M", "--connect-timeout", "20000")
	var out bytes.Buffer
	client.Stdout = &out
	within(t, 20*time.Second, "a server of iperf3", func() bool {
		c := n.far.Command("iperf3", "-c", "127.0.0.1", "-n", "1")
		return c.Run() == nil
	})
	if err := netns.Start(client); err != nil {
		t.Fatal(err)
	}
	began := n.kernel()
	within(t, 20*time.Second, "packets", func() bool { return n.kernel() > began+1000 })
	n.host.IP("link set up0 down")
	n.host.IP("link set fab1 down")
	at := n.kernel()
	if err := client.Wait(); err != nil {
		t.Fatalf("iperf3: %v\n%s", err, &out)
	}
	if n.kernel() < at+1000 {
		t.Errorf("the kernel translated %d packets by what was left", n.kernel()-at)
	}
	var r struct {
		Intervals []struct {
			Streams []struct {
				Bytes float64
				End   float64
			}
		}
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Intervals) == 0 {
		t.Fatalf("%v\n%s", err, &out)
	}
	for i, s := range r.Intervals[len(r.Intervals)-1].Streams {
		if s.Bytes == 0 {
			t.Errorf("stream %d has stopped", i)
		}
	}
}
