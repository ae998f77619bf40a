//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const firstUseConfig = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - name: whole
    ipv4: 198.51.100.128/27
    whole_address: true
    cooldown: 1s
    first_use: {sources: ["2001:db8:6::/64", "2001:db8:7::/64"], idle: %s, most_per_prefix: 6, rate: 1000}
`

// firstUse is the topology where w1 and w2 are known to nobody.
func firstUse(t *testing.T, idle string) *topology {
	t.Helper()
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, fmt.Sprintf(firstUseConfig, idle))
	return n
}

// heard is a socket of the server's that says who wrote to it, and answers.
func (n *topology) heard(t *testing.T) (port int, from <-chan string) {
	t.Helper()
	var c *net.UDPConn
	var err error
	n.server.Do(func() { c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(server)}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	all := make(chan string, 10_000)
	go func() {
		b := make([]byte, 2000)
		for {
			size, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			all <- fmt.Sprintf("%s %s", from.Addr(), b[:size])
			c.WriteToUDPAddrPort(b[:size], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).Port, all
}

// sends opens a socket of a namespace with a source that it need not have.
func sends(t *testing.T, ns *netns.NS, from string, port int) *net.UDPConn {
	t.Helper()
	free := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1) })
	}}
	var c net.Conn
	var err error
	ns.Do(func() {
		c, err = free.DialContext(context.Background(), "udp6", fmt.Sprintf("[%s]:%d", serverv6, port))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

func say(c *net.UDPConn, what string) { c.Write([]byte(what)) }

// answered says that the socket got its words back.
func answered(c *net.UDPConn, what string) bool {
	b := make([]byte, 2000)
	for {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		size, err := c.Read(b)
		if err == nil && string(b[:size]) == what {
			return true
		}
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return false
		}
	}
}

// given are those who have something by first use.
func (n *topology) given(t *testing.T) (all []api.Workload) {
	t.Helper()
	list, err := n.daemon.Client().List(t.Context(), api.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if w.Request.Labels[api.FirstUseLabel] != "" {
			all = append(all, w)
		}
	}
	return all
}

// TestFirstUse: a source that nobody announced has an assignment by its first packet, which
// is not lost; it is as any other, and the kernel takes its packets from then on.
func TestFirstUse(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	n := firstUse(t, "24h")
	port, heard := n.heard(t)
	c := sends(t, n.w1, workload1, port)
	say(c, "first")
	select {
	case got := <-heard:
		if !strings.HasPrefix(got, "198.51.100.") || !strings.HasSuffix(got, " first") {
			t.Errorf("the server heard %q", got)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the first packet was lost")
	}
	if !answered(c, "first") {
		t.Error("no answer came back")
	}
	w := n.given(t)
	if len(w) != 1 || w[0].Request.IPv6[0] != netip.MustParseAddr(workload1) || w[0].Request.Name != "first-use/"+workload1 || w[0].Pool != "whole" {
		t.Fatalf("it has %+v", w)
	}
	for _, c := range []struct{ want, args string }{
		{"by its first packet", "whois " + w[0].Address.String()},
		{"first-use/" + workload1, "workloads"},
		{"FIRST USE OF", "status"},
		{"first use", "status"},
		{"first-use", "explain ipv6 src 2001:db8:6::77 dst " + serverv6 + " udp sport 1 dport 2"},
	} {
		out, _ := exec.Command(filepath.Join(daemon.Build(t), "natless"), append(strings.Fields(c.args), "--socket", n.daemon.Socket)...).CombinedOutput()
		if !strings.Contains(string(out), c.want) {
			t.Errorf("natless %s: no %q in\n%s", c.args, c.want, out)
		}
	}
	n.takenByKernel(t, c, w[0].Key)
	n.reversePath(t, port)
	n.survives(t, c, w[0])
	n.announces(t, c, w[0])
}

// takenByKernel: the fast path has its packets.
func (n *topology) takenByKernel(t *testing.T, c *net.UDPConn, k api.Key) {
	t.Helper()
	if daemon.FastPath() == "off" {
		return
	}
	within(t, 20*time.Second, "the fast path to take over", func() bool {
		before, err := n.daemon.Client().Get(t.Context(), k)
		if err != nil || before.Traffic == nil {
			return false
		}
		say(c, "more")
		if !answered(c, "more") {
			return false
		}
		after, err := n.daemon.Client().Get(t.Context(), k)
		return err == nil && after.Daemon == before.Daemon && after.Traffic.Sent.Packets > before.Traffic.Sent.Packets
	})
}

// reversePath: nobody gets anything by an address that the host has behind another link.
func (n *topology) reversePath(t *testing.T, port int) {
	t.Helper()
	say(sends(t, n.w1, "2001:db8:7::99", port), "forged")
	say(sends(t, n.w2, workload2, port), "real") // behind a router
	within(t, 20*time.Second, "w2 to have something", func() bool { return len(n.given(t)) == 2 })
	for _, w := range n.given(t) {
		if w.Request.IPv6[0] == netip.MustParseAddr("2001:db8:7::99") {
			t.Errorf("a forged source has %+v", w)
		}
	}
}

// survives: a killed daemon's successor knows who has what.
func (n *topology) survives(t *testing.T, c *net.UDPConn, w api.Workload) {
	t.Helper()
	n.daemon.Kill()
	n.daemon.Start()
	say(c, "again")
	if !answered(c, "again") {
		t.Error("after a kill, no answer")
	}
	now, err := n.daemon.Client().Get(t.Context(), w.Key)
	if err != nil || now.Serial != w.Serial || len(n.given(t)) != 2 {
		t.Errorf("after a kill: %+v, %v", now, err)
	}
}

// announces: a workload that is announced takes its address over.
func (n *topology) announces(t *testing.T, c *net.UDPConn, w api.Workload) {
	t.Helper()
	k := api.Key{ContainerID: "c1", Interface: "eth0"}
	if _, err := n.daemon.Client().Put(t.Context(), k, api.Request{Name: "shop/web", IPv6: w.Request.IPv6, Pool: "whole"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.daemon.Client().Get(t.Context(), w.Key); err == nil {
		t.Error("what was given by first use is still there")
	}
	say(c, "announced")
	if !answered(c, "announced") {
		t.Error("who was announced gets no answer")
	}
	if err := n.daemon.Client().Delete(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	say(c, "gone")
	within(t, 20*time.Second, "it to have something by first use again", func() bool {
		say(c, "gone")
		return len(n.given(t)) == 2
	})
}

// TestFirstUseIdle: what is idle is given back, what is used is not, and what is given by hand
// comes again.
func TestFirstUseIdle(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	n := firstUse(t, "3s")
	port, _ := n.heard(t)
	busy, idle := sends(t, n.w1, workload1, port), sends(t, n.w2, workload2, port)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var longest atomic.Int64 // silence, on a machine that has no time
	go func() {
		for last := time.Now(); ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			say(busy, "on")
			longest.Store(max(longest.Load(), int64(time.Since(last))))
			last = time.Now()
		}
	}()
	say(idle, "once")
	within(t, 20*time.Second, "both to have something", func() bool { return len(n.given(t)) == 2 })
	var before api.Workload
	for _, w := range n.given(t) {
		if w.Request.IPv6[0] == netip.MustParseAddr(workload1) {
			before = w
		}
	}
	within(t, 30*time.Second, "what is idle to be given back", func() bool { return len(n.given(t)) == 1 })
	now, err := n.daemon.Client().Get(t.Context(), before.Key)
	if silent := time.Duration(longest.Load()); silent > 2*time.Second {
		t.Skipf("who is busy could not send for %v", silent)
	}
	if err != nil || now.Serial != before.Serial {
		t.Fatalf("who is busy has %+v, %v; had %+v", now, err, before)
	}
	if err := n.daemon.Client().Delete(t.Context(), before.Key); err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "it to have another assignment", func() bool {
		now, err := n.daemon.Client().Get(t.Context(), before.Key)
		return err == nil && now.Serial != before.Serial
	})
}

// TestFirstUseFlood: who pretends to be many gets as much as its /64 may have, and others
// get theirs.
func TestFirstUseFlood(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	daemon.OnePath(t, "what has no assignment is never the kernel's")
	n := firstUse(t, "24h")
	port, _ := n.heard(t)
	n.w1.IP("-6 route add local 2001:db8:6:0:1::/80 dev lo")
	for i := range 200 {
		c := sends(t, n.w1, fmt.Sprintf("2001:db8:6:0:1::%x", i+1), port)
		say(c, "flood")
		c.Close()
	}
	within(t, 30*time.Second, "the flood to have what it may have", func() bool { return len(n.given(t)) == 6 })
	c := sends(t, n.w2, workload2, port)
	say(c, "other")
	if !answered(c, "other") {
		t.Error("another got nothing")
	}
	if all := n.given(t); len(all) != 7 {
		t.Errorf("%d have something, want 6 and one", len(all))
	}
	// Who gets nothing is told, as soon as there is a budget for it.
	n.w1.IP("addr add 2001:db8:6::ffff/128 dev eth0") // that the host finds on the link
	late := sends(t, n.w1, "2001:db8:6::ffff", port)
	within(t, 20*time.Second, "who gets nothing to hear of it", func() bool {
		say(late, "late")
		late.SetReadDeadline(time.Now().Add(time.Second))
		_, err := late.Read(make([]byte, 100))
		return errors.Is(err, syscall.EACCES)
	})
	s, err := n.daemon.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Checks {
		if c.Name == "first use" && (c.State != "warn" || !strings.Contains(c.Detail, "prefix")) {
			t.Errorf("the check says %+v", c)
		}
	}
	// Without sources nobody comes, and who is there stays.
	n.daemon.Write(strings.Replace(fmt.Sprintf(firstUseConfig, "24h"), `"2001:db8:6::/64", `, "", 1))
	n.daemon.Signal(syscall.SIGHUP)
	within(t, 20*time.Second, "a reload", func() bool {
		s, err := n.daemon.Client().Status(t.Context())
		return err == nil && len(s.FirstUse) == 1 && len(s.FirstUse[0].Sources) == 1
	})
	if all := n.given(t); len(all) != 7 {
		t.Errorf("after a reload %d have something, want 7", len(all))
	}
}

const fullConfig = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
metrics: {listen: "[::1]:9464"}
pools:
  - name: whole
    ipv4: 198.51.100.128/29
    whole_address: true
    cooldown: 0s
    first_use: {sources: ["2001:db8:6::/64", "2001:db8:7::/64"], idle: 24h, most: %d, rate: 1000}
`

// metric is what natlessd's metrics have for a name with labels.
func (n *topology) metric(t *testing.T, name string) (value string) {
	t.Helper()
	out, err := n.host.Command("curl", "-s", "--max-time", "20", "http://[::1]:9464/metrics").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value = strings.TrimSpace(rest)
		}
	}
	return value
}

// refusedSoon says that one of the sources that have nothing hears of it (ICMPv6 1/5), as soon
// as there is a budget for errors.
func (n *topology) refusedSoon(t *testing.T, senders []*net.UDPConn) {
	t.Helper()
	has := map[netip.Addr]bool{}
	all, err := n.daemon.Client().List(t.Context(), api.Filter{}) // announced, or by first use
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		has[w.Request.IPv6[0]] = true
	}
	i := slices.IndexFunc(senders, func(c *net.UDPConn) bool { return !has[c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()] })
	if i < 0 {
		t.Fatal("all have something")
	}
	c := senders[i]
	within(t, 20*time.Second, "who gets nothing to hear of it", func() bool {
		say(c, "nothing")
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.Read(make([]byte, 100))
		return errors.Is(err, syscall.EACCES)
	})
}

// announce puts a workload as a container's plugin would.
func (n *topology) announce(i int) (api.Workload, error) {
	return n.daemon.Client().Put(n.t.Context(), api.Key{ContainerID: fmt.Sprint("c", i), Interface: "eth0"},
		api.Request{Name: fmt.Sprint("ns/", i), IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:a::%x", i+1))}, Pool: "whole"})
}

// TestFirstUseFull: first use leaves half of a pool to those who are announced, who get it;
// who finds the pool full is told so, in a metric and by ICMP, and the log says it once; what
// one gives back the next one gets. Where most is as large as the pool, who is announced is told
// what to do, but takes his own address over.
func TestFirstUseFull(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "curl")
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, fmt.Sprintf(fullConfig, 0))
	port, _ := n.heard(t)
	var senders []*net.UDPConn
	for i := range 12 {
		a := fmt.Sprintf("2001:db8:6::%x", i+0x100)
		n.w1.IP("addr add " + a + "/64 dev eth0 nodad")
		senders = append(senders, sends(t, n.w1, a, port))
		say(senders[i], "hello")
	}
	within(t, 30*time.Second, "half of the pool to be given, and the rest refused", func() bool {
		for _, c := range senders {
			say(c, "hello")
		}
		return len(n.given(t)) == 4 && n.metric(t, `natless_first_use_refused_total{reason="most"}`) > "0"
	})
	for i := range 4 {
		if _, err := n.announce(i); err != nil {
			t.Errorf("half of the pool is for who is announced, and number %d: %v", i, err)
		}
	}
	n.refusedSoon(t, senders)
	within(t, 30*time.Second, "the reason to be that the pool is full", func() bool {
		for _, c := range senders {
			say(c, "hello")
		}
		return n.metric(t, `natless_first_use_refused_total{reason="pool-full"}`) > "0"
	})
	if all := n.given(t); len(all) != 4 || n.metric(t, `natless_first_use_workloads{pool="whole"}`) != "4" {
		t.Errorf("%d have something by first use", len(all))
	}
	if said := strings.Count(n.daemon.Log(), "gets no assignment by first use"); said == 0 || said > 6 { // each reason once a minute
		t.Errorf("the log says %d times that a source gets nothing", said)
	}
	if _, err := n.announce(4); !errors.Is(err, api.ErrExhausted) || !strings.Contains(err.Error(), "4 workloads have theirs by first use, which first_use.most bounds") {
		t.Errorf("a fifth of those who are announced: %v", err)
	}
	if err := n.daemon.Client().Delete(t.Context(), api.Key{ContainerID: "c0", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if w, err := n.announce(4); err != nil {
		t.Errorf("when one is given back: %+v, %v", w, err)
	}

	n.daemon.Write(fmt.Sprintf(fullConfig, 8))
	n.daemon.Signal(syscall.SIGHUP)
	for i := range 5 {
		n.daemon.Client().Delete(t.Context(), api.Key{ContainerID: fmt.Sprint("c", i), Interface: "eth0"})
	}
	within(t, 30*time.Second, "all of the pool to be first use's, as the operator has said", func() bool {
		for _, c := range senders {
			say(c, "more")
		}
		return len(n.given(t)) == 8
	})
	if _, err := n.announce(5); !errors.Is(err, api.ErrExhausted) || !strings.Contains(err.Error(), "8 workloads have theirs by first use") {
		t.Errorf("who is announced, where first use may have all: %v", err)
	}
	his := n.given(t)[0]
	if _, err := n.daemon.Client().Put(t.Context(), api.Key{ContainerID: "his", Interface: "eth0"}, api.Request{IPv6: his.Request.IPv6, Pool: "whole"}); err != nil {
		t.Errorf("who is announced takes over what he has by first use: %v", err)
	}
	n.refusedSoon(t, senders)
}
