//go:build linux

// Package overload has workloads flood a host with all that a machine can send, and
// holds what their neighbours get then against what they get where the same processors'
// time is burnt elsewhere. Nothing but that may enter here.
package overload

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const (
	quiet6, flooder6 = "2001:db8:6::2", "2001:db8:7::2"
	server, server6  = "192.0.2.2", "2001:db8:64::c000:202"
	quietPort        = 1024 // the first of its ports
	floodPort        = 4096
	own6             = "2001:db8::1"
	nowhere6         = "2001:db8:dead::1" // behind a device of the flooder's own
)

const configuration = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
`

// topology is
//
//	quiet ──┐
//	flooder ┼ host ── server
//	crowd ──┘
//
// where crowd is as many workloads as a test wants, and all share one IPv4 address or
// few.
type topology struct {
	t                                   testing.TB
	quiet, flooder, crowd, host, server *netns.NS
	daemon                              *daemon.Daemon
	workloads                           int // of the crowd
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

func newTopology(t testing.TB, workloads int, more string) *topology {
	t.Helper()
	n := &topology{t: t, quiet: netns.New(t, "quiet"), flooder: netns.New(t, "flooder"), crowd: netns.New(t, "crowd"), host: netns.New(t, "host"),
		server: netns.New(t, "server")}
	for i, w := range []*netns.NS{n.quiet, n.flooder, n.crowd} {
		name := [...]string{"quiet", "flooder", "crowd"}[i]
		netns.Veth(t, w, "eth0", n.host, name)
		w.IP(fmt.Sprintf("addr add 2001:db8:%d::2/64 dev eth0", 6+i))
		n.host.IP(fmt.Sprintf("addr add 2001:db8:%d::1/64 dev %s", 6+i, name))
		w.IP(fmt.Sprintf("route add default via 2001:db8:%d::1", 6+i))
	}
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.server.IP("addr add 192.0.2.2/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	n.server.Run("sysctl", "-qw", "net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv4.tcp_syncookies=2")
	n.flooder.IP("link add nowhere type veth peer name hole")
	n.flooder.Run("sysctl", "-qw", "net.ipv6.conf.hole.disable_ipv6=1")
	for _, device := range []string{"nowhere", "hole"} {
		n.flooder.IP("link set " + device + " up")
	}
	n.flooder.IP("route add 2001:db8:dead::/64 dev nowhere")
	n.flooder.IP("neigh add " + nowhere6 + " lladdr 02:00:00:00:00:01 dev nowhere nud permanent")
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

// role starts this program in another part. end ends it and gives what it said.
func (n *topology) role(ns *netns.NS, role string, args ...any) (end func() string) {
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
	out := &said{ready: make(chan struct{})}
	c.Stdout, c.Stderr = out, os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := netns.Start(c); err != nil {
		n.t.Fatal(err)
	}
	once := sync.OnceValue(func() string {
		in.Close()
		if err := c.Wait(); err != nil {
			n.t.Errorf("%v: %v", words, err)
		}
		return out.String()
	})
	n.t.Cleanup(func() { once() })
	if role == "flood" || role == "serve" {
		select {
		case <-out.ready:
		case <-time.After(30 * time.Second):
			n.t.Fatalf("%s is not ready", role)
		}
	}
	return once
}

// said is what a program says behind "ready".
type said struct {
	mu    sync.Mutex
	b     bytes.Buffer
	ready chan struct{}
	is    bool
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.is && bytes.HasPrefix(b, []byte("ready\n")) {
		s.is = true
		close(s.ready)
		s.b.Write(b[len("ready\n"):])
		return len(b), nil
	}
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
