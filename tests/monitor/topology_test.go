//go:build linux

// Package monitor proves natless monitor and capture: real traffic through a
// real daemon, watched by the real program, and read by tshark. What one
// package can prove alone may not enter here.
package monitor

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

const (
	workload6, workload4 = "2001:db8:6::2", "198.51.100.2"
	web6                 = "2001:db8:6::3" // has ports of shared4
	shared4              = "203.0.113.0"
	server4, server6     = "192.0.2.2", "2001:db8:64::c000:202"
)

// The uplink's MTU is smaller than the device's, so that superpackets and
// packets that are too big can be had.
const configuration = `
device: {queues: 2}
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings:
  - {ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}
pools:
  - {name: default, ipv4: 203.0.113.0/32, ports_per_workload: 1024}
` + seen

// seen has every packet take the way through the daemon. Floods are on purpose: nobody
// gives way.
const seen = "fast_path: \"off\"\nshedding: {enabled: false}\n"

// topology is w ─── host ─── server: w has only IPv6, server only IPv4.
type topology struct {
	testing.TB
	w, host, server *netns.NS
	daemon          *daemon.Daemon
	web             api.Workload
	flooding        *net.UDPConn
}

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

func newTopology(t testing.TB) *topology {
	t.Helper()
	n := &topology{TB: t, w: netns.New(t, "w"), host: netns.New(t, "host"), server: netns.New(t, "server")}
	netns.Veth(t, n.w, "eth0", n.host, "w")
	netns.Veth(t, n.host, "uplink", n.server, "eth0")
	n.host.IP("addr add 2001:db8:6::1/64 dev w")
	n.host.IP("addr add 192.0.2.1/24 dev uplink")
	n.w.IP("addr add " + workload6 + "/64 dev eth0")
	n.w.IP("addr add " + web6 + "/64 dev eth0")
	n.w.IP("route add default via 2001:db8:6::1 src " + workload6)
	n.server.IP("addr add " + server4 + "/24 dev eth0")
	n.server.IP("route add default via 192.0.2.1")
	n.daemon = daemon.Start(t, n.host, configuration)
	var err error
	n.web, err = n.daemon.Client().Put(t.Context(), api.Key{ContainerID: "0123456789abcdef", Interface: "eth0"},
		api.Request{Name: "default/web", IPv6: []netip.Addr{netip.MustParseAddr(web6)}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// viewer is a running natless monitor or capture.
type viewer struct {
	*topology
	cmd         *exec.Cmd
	out, errors output.Buffer
	done        chan error
}

// watch starts natless with the words and waits until it looks.
func (n *topology) watch(words ...string) *viewer {
	n.Helper()
	v := n.start(words...)
	v.looks()
	return v
}

func (n *topology) start(words ...string) *viewer {
	n.Helper()
	v := &viewer{topology: n, done: make(chan error, 1)}
	v.cmd = exec.Command(filepath.Join(daemon.Build(n), "natless"), append(words, "--socket", n.daemon.Socket)...)
	v.cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	v.cmd.Stdout, v.cmd.Stderr = &v.out, &v.errors
	if err := netns.Start(v.cmd); err != nil {
		n.Fatal(err)
	}
	go func() { v.done <- v.cmd.Wait() }()
	n.Cleanup(func() { v.cmd.Process.Kill() })
	return v
}

// looks waits until the viewer has been told that it sees packets.
func (v *viewer) looks() {
	v.Helper()
	within(v, "a viewer looks", func() bool { return strings.Contains(v.errors.String(), ", Ctrl-C ends it\n") })
	time.Sleep(50 * time.Millisecond) // the queues look at their next batch
}

// end interrupts the viewer as Ctrl-C does and gives what it wrote.
func (v *viewer) end() (out, errors string) {
	v.Helper()
	v.cmd.Process.Signal(syscall.SIGINT)
	return v.wait()
}

// wait waits until the viewer ends by itself, and well.
func (v *viewer) wait() (out, errors string) {
	v.Helper()
	if err := v.exit(); err != nil {
		v.Fatalf("natless: %v\n%s%s", err, v.out.String(), v.errors.String())
	}
	return v.out.String(), v.errors.String()
}

func (v *viewer) exit() error {
	v.Helper()
	select {
	case err := <-v.done:
		return err
	case <-time.After(20 * time.Second):
		v.Fatalf("natless does not end\n%s%s", v.out.String(), v.errors.String())
	}
	return errors.New("unreachable")
}

func within(t testing.TB, what string, done func() bool) {
	t.Helper()
	for start := time.Now(); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// send sends a datagram from w, from an address and port to another.
func (n *topology) send(from, to string, payload int) {
	n.Helper()
	var err error
	n.w.Do(func() {
		var c net.PacketConn
		if c, err = net.ListenPacket("udp6", from); err != nil {
			return
		}
		defer c.Close()
		_, err = c.WriteTo(make([]byte, payload), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	})
	if err != nil {
		n.Fatal(err)
	}
}

// flood sends datagrams from w to a port of the server where nobody listens, as
// fast as they go.
func (n *topology) flood(packets, payload int) {
	n.Helper()
	if n.flooding == nil {
		n.w.Do(func() {
			n.flooding, _ = net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("["+workload6+"]:0")),
				net.UDPAddrFromAddrPort(netip.MustParseAddrPort("["+server6+"]:9")))
		})
		if n.flooding == nil {
			n.Fatal("no socket")
		}
		n.Cleanup(func() { n.flooding.Close() })
	}
	b := make([]byte, payload)
	for range packets {
		n.flooding.Write(b) // an error is an ICMP message about an earlier one
	}
}

// restart starts the daemon again, with a log of its own.
func (n *topology) restart() *daemon.Daemon {
	n.Helper()
	return daemon.Start(n, n.host, configuration)
}
