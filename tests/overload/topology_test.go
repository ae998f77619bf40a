//go:build linux

// Package overload has workloads flood a host with all that a machine can send, and
// holds what their neighbours get then against what they get where the same processors'
// time is burnt elsewhere. Nothing but that may enter here.
package overload

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const (
	quiet6, flooder6   = "2001:db8:6::2", "2001:db8:7::2"
	server, server6    = "192.0.2.2", "2001:db8:64::c000:202"
	quietPort          = 1024 // the first of its ports
	floodPort          = 4096
	own4, own6         = "198.51.100.1", "2001:db8::1"
	shared4            = "198.51.100.2"                   // of the neighbour and the flooder
	nowhere4, nowhere6 = "10.255.0.1", "2001:db8:dead::1" // behind devices of the flooders' own
)

const configuration = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mtu: {ipv4: 1400}
dns64: {enabled: true, upstreams: ["192.0.2.2:53"]}
`

// topology is
//
//	quiet ──┐      ┌ server
//	flooder ┼ host ┤
//	crowd ──┘      └ remote
//
// where crowd is as many workloads as a test wants, and all share one IPv4 address or
// few; remote floods from outside. Links toward quiet, and toward a part of server, take
// less than they seem to.
type topology struct {
	t                                           testing.TB
	quiet, flooder, crowd, host, server, remote *netns.NS
	daemon                                      *daemon.Daemon
	workloads                                   int // of the crowd
}

// crowd6 is the address of the i-th of the crowd.
func crowd6(i int) string { return fmt.Sprintf("2001:db8:8::%x:2", i+1) }

// configuration has more lines, and everybody's mapping.
func (n *topology) configuration(more string) string {
	var b strings.Builder
	b.WriteString(configuration + more + "mappings:\n")
	row := func(ipv6 string, n int) {
		fmt.Fprintf(&b, "  - {ipv6: %q, ipv4: 198.51.100.%d, ports: %d-%d}\n", ipv6, 2+n/60, 1024+1024*(n%60), 2047+1024*(n%60))
	}
	row(quiet6, 0)
	row(flooder6, 3)
	for i := range n.workloads {
		row(crowd6(i), 60+i)
	}
	return b.String()
}

// crowdPort is the first port of the i-th of the crowd.
func crowdPort(i int) int { return 1024 + 1024*(i%60) }

func newTopology(t testing.TB, workloads int, more string) *topology {
	t.Helper()
	n := &topology{t: t, quiet: netns.New(t, "quiet"), flooder: netns.New(t, "flooder"), crowd: netns.New(t, "crowd"), host: netns.New(t, "host"),
		server: netns.New(t, "server"), remote: netns.New(t, "remote")}
	for i, w := range []*netns.NS{n.quiet, n.flooder, n.crowd} {
		name := [...]string{"quiet", "flooder", "crowd"}[i]
		netns.Veth(t, w, "eth0", n.host, name)
		w.IP(fmt.Sprintf("addr add 2001:db8:%d::2/64 dev eth0", 6+i))
		n.host.IP(fmt.Sprintf("addr add 2001:db8:%d::1/64 dev %s", 6+i, name))
		w.IP(fmt.Sprintf("route add default via 2001:db8:%d::1", 6+i))
	}
	n.host.IP("route add " + quiet6 + " dev quiet mtu lock 1300")
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.host.IP("route add 192.0.2.128/25 dev uplink mtu lock 1300")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add local 192.0.2.128/25 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	n.server.Run("sysctl", "-qw", "net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.tcp_syncookies=2", "net.ipv4.route.mtu_expires=1")
	netns.Veth(t, n.host, "outside", n.remote, "eth0")
	n.host.IP("addr add 203.0.113.1/24 dev outside")
	n.host.IP("route add 10.0.0.0/8 via 203.0.113.2")
	n.remote.IP("addr add 203.0.113.2/24 dev eth0")
	n.remote.IP("route add default via 203.0.113.1")
	n.remote.Run("sysctl", "-qw", "net.ipv4.ip_forward=0")
	for _, w := range []*netns.NS{n.flooder, n.remote} {
		w.IP("link add nowhere type veth peer name hole")
		w.Run("sysctl", "-qw", "net.ipv6.conf.hole.disable_ipv6=1")
		w.IP("link set nowhere up")
		w.IP("link set hole up")
	}
	n.flooder.IP("route add 2001:db8:dead::/64 dev nowhere")
	n.flooder.IP("neigh add " + nowhere6 + " lladdr 02:00:00:00:00:01 dev nowhere nud permanent")
	n.remote.IP("route add " + nowhere4 + " dev nowhere")
	n.remote.IP("neigh add " + nowhere4 + " lladdr 02:00:00:00:00:01 dev nowhere nud permanent")
	n.workloads = workloads
	if workloads > 0 {
		var batch strings.Builder
		for i := range workloads {
			fmt.Fprintf(&batch, "addr add %s/64 dev eth0 nodad\n", crowd6(i))
		}
		c := n.crowd.Command("ip", "-batch", "-")
		c.Stdin = strings.NewReader(batch.String())
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	n.daemon = daemon.Start(t, n.host, n.configuration(more))
	return n
}

// actor is this program in another part: it answers lines.
type actor struct {
	t    testing.TB
	name string
	in   io.WriteCloser
	out  *bufio.Scanner
	end  func()
}

// role starts this program in another part.
func (n *topology) role(ns *netns.NS, role string, args ...any) *actor {
	n.t.Helper()
	words := []string{role}
	for _, a := range args {
		words = append(words, fmt.Sprint(a))
	}
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	c := ns.Command(self, words...)
	c.Stderr = os.Stderr
	a := &actor{t: n.t, name: role}
	out, w, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	c.Stdout = w
	if a.in, err = c.StdinPipe(); err != nil {
		n.t.Fatal(err)
	}
	err = netns.Start(c)
	w.Close()
	if err != nil {
		n.t.Fatal(err)
	}
	a.out = bufio.NewScanner(out)
	a.out.Buffer(nil, 1<<22)
	a.end = sync.OnceFunc(func() {
		a.in.Close()
		if err := c.Wait(); err != nil {
			n.t.Errorf("%v: %v", words, err)
		}
		out.Close()
	})
	n.t.Cleanup(a.end)
	if got := a.line(); got != "ready" {
		n.t.Fatalf("%s is not ready: %q", role, got)
	}
	return a
}

func (a *actor) line() string {
	a.t.Helper()
	if !a.out.Scan() {
		a.t.Fatalf("%s has nothing more to say: %v", a.name, a.out.Err())
	}
	return a.out.Text()
}

// ask has an actor do something. It gives what he says.
func (a *actor) ask(words ...any) string {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.in, words...); err != nil {
		a.t.Fatal(a.name, ": ", err)
	}
	answer := a.line()
	if strings.HasPrefix(answer, "!") {
		a.t.Fatal(a.name, ": ", answer)
	}
	return answer
}
