//go:build linux

package fastpath

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

const xdpInterfaces = "fab0 fab1 up0 up1"

// newFront is newWays, with XDP at all four interfaces of the relay, whose links bring
// packets as from a wire: one by one, with whole checksums.
func newFront(t *testing.T) *ways {
	t.Helper()
	netns.Require(t, netns.Root, "ethtool")
	n := spread(t)
	for _, ns := range []*netns.NS{n.pod, n.far} {
		ns.Run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off")
	}
	for i := range 2 {
		for _, ns := range []*netns.NS{n.behind, n.server} {
			// A veth takes frames of XDP while its other end has GRO.
			ns.Run("ethtool", "-K", fmt.Sprintf("eth%d", i), "tx", "off", "tso", "off", "gso", "off", "gro", "on")
		}
		for _, device := range []string{"up", "fab"} {
			n.host.Run("ethtool", "-K", fmt.Sprintf("%s%d", device, i), "rxvlan", "off")
		}
	}
	n.daemon = daemon.Start(t, n.host, waysConfig+"xdp: [up0, up1, fab0, fab1]\n")
	n.attached("up0 up1 fab0 fab1")
	n.front()
	return n
}

// front waits until XDP is everywhere, and says what it did.
func (n *ways) front() (x api.FastPathXDP) {
	n.t.Helper()
	within(n.t, 20*time.Second, "XDP at "+xdpInterfaces, func() bool {
		if now := n.fastPath().XDP; now != nil {
			x = *now
		}
		return strings.Join(x.Interfaces, " ") == xdpInterfaces
	})
	for name, note := range x.Notes {
		if note != "it is a veth, where TCP is slower with XDP" {
			n.t.Errorf("%s: %s", name, note)
		}
	}
	return x
}

// TestXDP: in front of traffic control packets take all ways, what XDP does not do finds
// its way, a daemon that is killed leaves it in force, and who looks sees its packets.
func TestXDP(t *testing.T) {
	t.Parallel()
	n := newFront(t)
	ports := map[*netns.NS]string{n.pod: n.echoes(n.pod), n.far: n.echoes(n.far)}
	exchanges := func(name string) {
		t.Helper()
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
	}
	for name, b := range map[string]by{"all by all": everywhere, "IPv6 next hops": {"01", "01", "6", "01"}} {
		n.lead(b)
		n.attached("up0 up1 fab0 fab1")
		before, all := n.front(), n.kernel()
		exchanges(name)
		after := n.front()
		did, of := after.Packets["translated"]-before.Packets["translated"], n.kernel()-all
		if did < of*8/10 || did < 400 {
			t.Errorf("%s: XDP did %d packets of %d: %+v", name, did, of, after)
		}
	}
	n.lead(everywhere)
	n.seen(ports[n.far])
	n.daemon.Kill()
	n.pod.Do(func() {
		if err := connections(farv6, ports[n.far], 12); err != nil {
			t.Errorf("nobody is there: %v", err)
		}
	})
	n.daemon.Start()
	n.attached("up0 up1 fab0 fab1")
	if o := n.fastPath(); !o.Adopted {
		t.Errorf("not adopted: %+v", o)
	}
	before := n.front()
	n.far.Do(func() {
		if err := connections(podv4, ports[n.pod], 12); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
	if after := n.front(); after.Packets["translated"] < before.Packets["translated"]+400 {
		t.Errorf("after a restart XDP did little: %+v, %+v", before, after)
	}
	n.lead(by{"0", "1", "0", "1"})
	n.pathMTUs()
}

// seen has somebody look at packets, who sees what XDP translates when nobody looks.
func (n *ways) seen(port string) {
	n.t.Helper()
	var out, notes output.Buffer
	look := exec.Command(filepath.Join(daemon.Build(n.t), "natless"), "monitor", "-n", "20", "--for", "20s", "--socket", n.daemon.Socket, "tcp and port "+port)
	look.Stdout, look.Stderr = &out, &notes
	if err := netns.Start(look); err != nil {
		n.t.Fatal(err)
	}
	within(n.t, 20*time.Second, "somebody looks", func() bool { return strings.Contains(notes.String(), "Ctrl-C") })
	n.pod.Do(func() {
		if err := connections(farv6, port, 4); err != nil {
			n.t.Errorf("while somebody looks: %v", err)
		}
	})
	if err := look.Wait(); err != nil || strings.Count(out.String(), "forward4") == 0 || strings.Count(out.String(), "forward6") == 0 {
		n.t.Errorf("seen: %v\n%s\n%s", err, &out, &notes)
	}
}

// connections are made and used, one by one.
func connections(address, port string, count int) error {
	for i := range count {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(address, port), 20*time.Second)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err = c.Write(make([]byte, 40_000)); err == nil {
			_, err = io.ReadFull(c, make([]byte, 40_000))
		}
		c.Close()
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}

// TestXDPNextHop: a next hop that answers no more is noticed in the time that the kernel
// takes for what it forwards, though only XDP uses it.
func TestXDPNextHop(t *testing.T) {
	t.Parallel()
	n := newFront(t)
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, device := range []string{"up0", "fab0"} {
			for key, value := range map[string]int{"base_reachable_time_ms": 1000, "delay_first_probe_time": 1, "retrans_time_ms": 300, "interval_probe_time_ms": 1000} {
				n.host.Run("sysctl", "-qw", fmt.Sprintf("net.%s.neigh.%s.%s=%d", family, device, key, value))
			}
			n.host.IP("neigh flush dev " + device) // those there are believe in what held before
		}
	}
	n.lead(by{"0", "0", "0", "0"})
	port := n.echoes(n.far)
	var conn net.Conn
	var err error
	n.pod.Do(func() { conn, err = net.Dial("udp", net.JoinHostPort(farv6, port)) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for ctx.Err() == nil {
			conn.Write(make([]byte, 100))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	defer func() { end(); <-sent; conn.Close() }()
	hops := map[string]string{"10.0.0.2": "up0", "2001:db8:f0::2": "fab0"}
	within(t, 20*time.Second, "managed next hops", func() bool {
		for hop, device := range hops {
			if !strings.Contains(n.host.IP("neigh show "+hop+" dev "+device), "managed") {
				return false
			}
		}
		return true
	})
	before := n.front().Packets["translated"]
	within(t, 20*time.Second, "packets by XDP", func() bool { return n.front().Packets["translated"] > before+100 })
	n.server.IP("link set eth0 arp off")
	n.behind.IP("link set eth0 arp off")
	n.behind.Run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
	for hop, device := range hops {
		within(t, 30*time.Second, hop+" is given up", func() bool {
			state := strings.Fields(n.host.IP("neigh show " + hop + " dev " + device))
			return slices.Contains(state, "FAILED") || slices.Contains(state, "INCOMPLETE")
		})
	}
	within(t, 20*time.Second, "XDP leaves the next hop to the kernel", func() bool { return n.front().Packets["no-neighbour"] > 0 })
}
