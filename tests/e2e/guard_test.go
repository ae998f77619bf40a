//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// sendUDP sends a datagram from an address of a namespace.
func sendUDP(t *testing.T, ns *netns.NS, from, to string) {
	t.Helper()
	var err error
	ns.Do(func() {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}
		var c net.Conn
		if c, err = d.Dial("udp", to); err == nil {
			_, err = c.Write([]byte("from " + from))
			c.Close()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// receive listens on a port of a namespace; what comes is sent to the channel.
func receive(t *testing.T, ns *netns.NS, port string) <-chan string {
	t.Helper()
	var c net.PacketConn
	var err error
	ns.Do(func() { c, err = net.ListenPacket("udp", ":"+port) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	got := make(chan string, 100)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			got <- string(buf[:n]) + " by " + from.(*net.UDPAddr).IP.String()
		}
	}()
	return got
}

func next(got <-chan string, patience time.Duration) string {
	select {
	case s := <-got:
		return s
	case <-time.After(patience):
		return ""
	}
}

// TestStrangerWithOurSource: nobody outside speaks for a workload, whichever way
// its packets take. The kernel's own check is off.
func TestStrangerWithOurSource(t *testing.T) {
	daemon.OnePath(t, "it runs both")
	for _, offload := range []string{"off", "auto"} {
		t.Run(offload, func(t *testing.T) {
			t.Parallel()
			n := newTopology(t, "uplink: uplink\nfast_path: "+offload+"\nicmp_source_pool: {ipv4: 198.51.100.9/32}\npools: [{name: p, ipv4: 198.51.100.64/28}]")
			n.host.Run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.uplink.rp_filter=0")
			got := receive(t, n.w1, "5000")
			sources := []string{workload2v4, own4, "198.51.100.9", "198.51.100.70"}
			for _, from := range sources {
				n.server.IP("addr add " + from + "/32 dev lo")
				sendUDP(t, n.server, from+":4000", workload1v4+":5000")
				n.server.IP("addr del " + from + "/32 dev lo")
			}
			sendUDP(t, n.server, server+":4000", workload1v4+":5000")
			if s := next(got, 3*time.Second); s != "from "+server+":4000 by "+serverv6 {
				t.Errorf("first came %q", s)
			}
			status := n.natless("status")
			if !strings.Contains(status, fmt.Sprintf("%[1]d packets dropped: own-source %[1]d", len(sources))) {
				t.Errorf("status does not tell of them:\n%s", status)
			}
		})
	}
}

// TestBridgeWorkloads: two workloads at ports of one bridge, put through the API
// as the plugin does; what the one sends with the other's address ends there, and
// the doctor says what can be said.
func TestBridgeWorkloads(t *testing.T) {
	t.Parallel()
	n := newNamespaces(t)
	w3 := netns.New(t, "w3")
	n.host.IP("link add br0 type bridge")
	n.host.IP("link set br0 up")
	n.host.IP("addr flush dev w1")
	n.host.IP("addr add 2001:db8:6::1/64 dev br0")
	n.host.IP("link set w1 master br0")
	netns.Veth(t, w3, "eth0", n.host, "w3")
	n.host.IP("link set w3 master br0")
	const three = "2001:db8:6::3"
	w3.IP("addr add " + three + "/64 dev eth0")
	w3.IP("route add default via 2001:db8:6::1")
	n.daemon = daemon.Start(t, n.host, poolsConfig+"uplink: uplink\n")
	at := func(w api.Workload) string {
		return netip.AddrPortFrom(w.Request.IPv6[0], w.Run().First).String()
	}
	one := at(n.put("one", workload1, n.w1, api.Request{Name: "ns/one", HostInterface: "w1"}))
	other := at(n.put("three", three, w3, api.Request{Name: "ns/three", HostInterface: "w3"}))
	got := receive(t, n.server, "7777")
	to := net.JoinHostPort(serverv6, "7777")
	sendUDP(t, n.w1, one, to)
	if s := next(got, 3*time.Second); s == "" {
		t.Fatal("a datagram of its own did not arrive")
	}
	w3.IP("addr add " + workload1 + "/128 dev eth0")
	for range 5 {
		sendUDP(t, w3, one, to)
	}
	if s := next(got, 300*time.Millisecond); s != "" {
		t.Errorf("one with the other's address arrived: %s", s)
	}
	w3.IP("addr del " + workload1 + "/128 dev eth0")
	sendUDP(t, w3, other, to)
	if s := next(got, 3*time.Second); s == "" {
		t.Error("after that, a datagram of its own did not arrive")
	}
	if status := n.natless("status"); !regexp.MustCompile(`bridge-source ([5-9]|\d\d)`).MatchString(status) {
		t.Errorf("status does not tell of it:\n%s", status)
	}
	n.diagnosed("workloads at named ports", 0)
	n.put("one", workload1, n.w1, api.Request{Name: "ns/one"})
	within(t, 3*time.Second, "doctor says what is not policed", func() bool {
		_, wrong, report := n.examine()
		return len(wrong) == 1 && wrong[0] == "warn anti-spoofing" && strings.Contains(report, "1 workloads are at ports of bridge br0 that nobody named")
	})
}
