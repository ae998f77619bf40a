//go:build linux

package fastpath

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// rate is what one TCP connection carries, in Mbit/s.
func rate(t *testing.T, from, to *netns.NS, address string, during time.Duration) float64 {
	t.Helper()
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.Listen("tcp", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- 0
			return
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(during))
		n, _ := io.Copy(io.Discard, c)
		received <- n
	}()
	var c net.Conn
	from.Do(func() {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(address, fmt.Sprint(l.Addr().(*net.TCPAddr).Port)), 3*time.Second)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buffer := make([]byte, 64<<10)
	for end := time.Now().Add(during); time.Now().Before(end); {
		c.SetWriteDeadline(end)
		if _, err := c.Write(buffer); err != nil {
			break
		}
	}
	return float64(<-received) * 8 / during.Seconds() / 1e6
}

// left waits until exactly these interfaces are left to the daemon, and why.
func (n *topology) leftAt(names string) (o api.FastPath) {
	n.t.Helper()
	within(n.t, 3*time.Second, "left to the daemon at "+names, func() bool {
		o = n.fastPath()
		var have []string
		for _, i := range o.Interfaces {
			if i.Left != "" {
				have = append(have, i.Name)
			}
		}
		slices.Sort(have)
		return strings.Join(have, " ") == names
	})
	return o
}

// shape does what the CNI plugin bandwidth does for what comes in at a device.
func (n *topology) shape(device string) {
	n.host.IP("link add ifb0 type ifb")
	n.host.IP("link set ifb0 up mtu 1500")
	n.host.Run("tc", "qdisc", "add", "dev", "ifb0", "root", "tbf", "rate", "10mbit", "burst", "20kb", "latency", "25ms")
	n.host.Run("tc", "qdisc", "add", "dev", device, "ingress")
	n.host.Run("tc", "filter", "add", "dev", device, "parent", "ffff:", "protocol", "all", "u32", "match", "u32", "0", "0",
		"action", "mirred", "egress", "redirect", "dev", "ifb0")
}

func (n *topology) unshape(device string) {
	n.host.Run("tc", "qdisc", "del", "dev", device, "ingress")
	n.host.IP("link del ifb0")
}

// TestLimits: a limit of bandwidth holds, at the ingress of a workload's interface,
// at its egress, and at the ingress of the uplink; at once when it is set, and the
// fast path is back at once when it is taken away.
func TestLimits(t *testing.T) {
	n := newTopology(t, baseConfig)
	n.daemon.Start()
	n.attached("uplink w1 w2")
	const during = 700 * time.Millisecond
	for _, c := range []struct {
		device, to string
		from, at   *netns.NS
	}{{"w1", serverv6, n.w1, n.server}, {"uplink", workload1v4, n.server, n.w1}} {
		n.shape(c.device)
		o := n.leftAt(c.device)
		if o.State != api.FastPathPartial {
			t.Errorf("state %q", o.State)
		}
		got := rate(t, c.from, c.at, c.to, during)
		t.Logf("%.1f Mbit/s through a limit of 10 at the ingress of %s", got, c.device)
		if got > 15 || got < 1 {
			t.Errorf("%.1f Mbit/s through a limit of 10 at the ingress of %s", got, c.device)
		}
		n.unshape(c.device)
		n.attached("uplink w1 w2")
	}
	n.host.Run("tc", "qdisc", "replace", "dev", "w1", "root", "tbf", "rate", "10mbit", "burst", "20kb", "latency", "25ms")
	n.attached("uplink w1 w2")
	before := n.kernel()
	got := rate(t, n.server, n.w1, workload1v4, during)
	t.Logf("%.1f Mbit/s through a limit of 10 at the egress of w1, %d packets by the kernel", got, n.kernel()-before)
	if got > 15 || got < 1 || n.kernel()-before < 100 {
		t.Errorf("%.1f Mbit/s through a limit of 10 at the egress, %d packets by the kernel", got, n.kernel()-before)
	}
}

// TestRequiredPassesBy: who requires the fast path has it, and is told of what.
func TestRequiredPassesBy(t *testing.T) {
	n := newTopology(t, required)
	n.shape("w1")
	n.host.Run("nft", "add table inet f; add chain inet f forward { type filter hook forward priority 0; policy drop; }")
	n.daemon.Start()
	o := n.leftAt("w1")
	within(t, 3*time.Second, "on", func() bool { o = n.fastPath(); return o.State != api.FastPathOff && len(o.Interfaces) == 3 })
	if !strings.Contains(o.Detail, "packets bypass policy drop of chain inet f forward") {
		t.Errorf("%+v", o)
	}
	if err := n.ping(n.w1, 3); err != nil || n.kernel() == 0 {
		t.Errorf("%v, %d packets by the kernel", err, n.kernel())
	}
}

// beyond puts a host behind the server, on a narrow link.
func (n *topology) beyond() *netns.NS {
	far := netns.New(n.t, "far")
	netns.Veth(n.t, n.server, "far", far, "eth0")
	n.server.IP("addr add 203.0.113.1/24 dev far")
	n.server.IP("link set far mtu 1300")
	far.IP("addr add 203.0.113.2/24 dev eth0")
	far.IP("route add default via 203.0.113.1")
	n.server.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.host.IP("route add 203.0.113.0/24 via 192.0.2.2")
	return far
}

// whole says that a path MTU is learnt, that a router in the middle of a traceroute
// answers, and that both ends of a connection hear each other.
func (n *topology) whole() (wrong []string) {
	const far = "2001:db8:64::203.0.113.2"
	n.w1.IP("-6 route flush cache")
	ping := func(args ...string) string {
		out, _ := n.w1.Command("ping", append(append([]string{"-6", "-n", "-c", "1", "-W", "1"}, args...), far)...).CombinedOutput()
		return string(out)
	}
	if out := ping(); !strings.Contains(out, "1 received") {
		wrong = append(wrong, "no echo: "+out)
	}
	// A connection of the fast path, whose errors are looked at.
	var err error
	n.w1.Do(func() {
		var c net.Conn
		if c, err = net.Dial("udp6", net.JoinHostPort(far, "9")); err == nil {
			defer c.Close()
			for range 3 {
				_, err = c.Write(make([]byte, 1400))
				time.Sleep(100 * time.Millisecond)
			}
			err = nil
		}
	})
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	if out := n.w1.Run("ip", "-6", "route", "get", far); !strings.Contains(out, "mtu 1320") {
		wrong = append(wrong, "no path MTU: "+out)
	}
	// The router is the second or the fourth hop, by the way that packets take.
	router := ""
	for hops := 1; hops < 5; hops++ {
		router += ping("-t", fmt.Sprint(hops))
	}
	if !strings.Contains(router, "From "+serverv6+" icmp_seq=1 Time exceeded") {
		wrong = append(wrong, "no time exceeded: "+router)
	}
	return wrong
}

// ruleSets are of the kinds that hosts have, with what lets translated packets through
// where they would end.
var ruleSets = map[string]string{
	"none": "",
	"accept established, drop invalid": `table inet f { chain forward { type filter hook forward priority 0; policy accept
ct state established,related accept
ct state invalid drop
}
}`,
	"stateful, drop by default": `table inet f { chain forward { type filter hook forward priority 0; policy drop
ct state established,related accept
ct state invalid drop
iifname { "w1", "w2", "natless0" } ct state new accept
}
}`,
	"in prerouting": `table inet f { chain raw { type filter hook prerouting priority -150; policy accept
ct state invalid drop
}
}`,
}

// TestStateful: rules that look at the state of connections find them whole.
func TestStateful(t *testing.T) {
	n := newTopology(t, baseConfig)
	n.beyond()
	n.daemon.Start()
	n.attached("uplink w1 w2")
	for name, rules := range ruleSets {
		n.rules("flush ruleset")
		n.attached("uplink w1 w2")
		if err := n.ping(n.w1, 2); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if rules != "" {
			n.rules(rules)
			within(t, 3*time.Second, "left to the daemon", func() bool { return n.fastPath().State == api.FastPathOff })
		}
		for _, wrong := range n.whole() {
			t.Errorf("%s: %s", name, wrong)
		}
	}
}

// rules loads rules of nftables; natless's own are put back when they are gone.
func (n *topology) rules(text string) {
	n.t.Helper()
	cmd := n.host.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("nft: %v\n%s\n%s", err, out, text)
	}
}
