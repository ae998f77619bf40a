//go:build linux

package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// TestHostPoolKilledAtEveryStep ends the work between any two steps, of the
// start and of the end, and looks whether the host lives: its servers, its
// clients, a connection from before, pings. Then the next start, or the next
// cleanup, must bring all in order.
func TestHostPoolKilledAtEveryStep(t *testing.T) {
	h := newHostLab(t)
	h.host.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 32000", "net.ipv4.ip_local_reserved_ports=12345")
	before := h.snapshot()
	var established net.Conn
	h.host.Do(func() { established, _ = net.Dial("tcp4", peerAddr+":8080") })
	defer established.Close()

	run := func(name string, steps int, work func(r *reconciler) error) (killed bool) {
		t.Helper()
		var err error
		h.host.Do(func() { err = h.reconcile(steps, work) })
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatalf("%s, %d steps: %v", name, steps, err)
		}
		if e := h.hostWorks(established); e != nil {
			t.Fatalf("%s killed after %d steps: the host is cut off: %v\n%s", name, steps, e, h.snapshot())
		}
		return errors.Is(err, errKilled)
	}
	start := func(r *reconciler) error { r.desired = sharing(); return r.reconcile() }
	end := func(r *reconciler) error { return r.cleanUp() }
	const all = 1 << 20

	steps := 0
	for run("start", steps, start) {
		if steps%3 == 0 { // a restart finishes what was begun
			run("second start", all, start)
			if n := strings.Count(h.host.IP("rule"), "proto 110"); n != len(portProtocols) {
				t.Fatalf("%d rules after a second start:\n%s", n, h.host.IP("rule"))
			}
		}
		run("cleanup", all, end)
		if diff := cmp.Diff(before, h.snapshot()); diff != "" {
			t.Fatalf("start killed after %d steps, cleaned up: (-before +after)\n%s", steps, diff)
		}
		steps++
	}
	t.Logf("start has %d steps", steps)

	for steps = 0; ; steps++ {
		run("start", all, start)
		killed := run("end", steps, end)
		run("second end", all, end)
		if diff := cmp.Diff(before, h.snapshot()); diff != "" {
			t.Fatalf("end killed after %d steps, ended again: (-before +after)\n%s", steps, diff)
		}
		if !killed {
			break
		}
	}
	t.Logf("the end has %d steps", steps)
}

var errKilled = errors.New("killed")

// killedKernel does so many changes and then no more, as after SIGKILL.
type killedKernel struct {
	*linuxKernel
	left int
}

func (k *killedKernel) apply(c change) error {
	if k.left == 0 {
		return errKilled
	}
	k.left--
	return k.linuxKernel.apply(c)
}

// reconcile works with a fresh reconciler, as after a start, for so many steps.
func (h *hostLab) reconcile(steps int, work func(*reconciler) error) error {
	k, err := openKernel("natless0", defaultSysctlDir)
	if err != nil {
		return err
	}
	defer k.close()
	j, err := openJournal(h.config)
	if err != nil {
		return err
	}
	c, err := h.config.withDefaults()
	if err != nil {
		return err
	}
	return work(&reconciler{config: c, kernel: &killedKernel{k, steps}, journal: j})
}

// TestHostPoolLeavesOutUsedPorts: what the host has in the range is left to it by
// name, the rest is shared, and what ends is shared too; what a workload has is
// the workload's, whoever has bound it.
func TestHostPoolLeavesOutUsedPorts(t *testing.T) {
	h := newHostLab(t)
	before := h.snapshot()
	serveEcho(t, h.host, "0.0.0.0:40000")
	serveEcho(t, h.host, "127.0.0.1:40001") // nobody else's business
	serveEcho(t, h.host, "0.0.0.0:41000")   // bound, and yet a workload's
	var c net.Conn
	h.host.Do(func() {
		c, _ = (&net.Dialer{LocalAddr: &net.TCPAddr{Port: 40002}}).Dial("tcp4", peerAddr+":8080")
	})
	told := make(chan InUse, 100)
	h.config.InUse = func(u InUse) { told <- u }
	h.config.Assigned = func(a netip.Addr, port uint16) bool { return a.String() == hostAddr && port == 41000 }
	m, stop := h.start(sharing())
	var used InUse
	for len(told) > 0 {
		used = <-told
	}
	want := InUse{netip.MustParseAddr(hostAddr), ports.MustParse("40000,40002"), []string{
		"tcp 0.0.0.0:40000 listening",
		"udp 0.0.0.0:40000 bound",
		"tcp 192.0.2.10:40002 to 192.0.2.20:8080 established",
	}}
	if diff := cmp.Diff(want, used, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := errors.Join(h.hostWorks(c), talk(h.net, "udp4", hostAddr+":40000", "the host's own")); err != nil {
		t.Error(err)
	}
	for _, port := range []uint16{40001, 40003, 41000} {
		rawTo(t, h, unix.IPPROTO_TCP, append(udp(5000, port, ""), make([]byte, 12)...))
		h.expect("a packet", equals(fmt.Sprintf("6 %s>%s 5000>%d", peerAddr, hostAddr, port)))
	}
	if err := ask(h.net, hostAddr+":41000"); !isTimeout(err) {
		t.Errorf("a program of the host got what is a workload's: %v", err)
	}
	serveEcho(t, h.host, "0.0.0.0:42000") // too late
	if err := ask(h.net, hostAddr+":42000"); !isTimeout(err) {
		t.Errorf("a program of the host got what leads to the device: %v", err)
	}
	c.(*net.TCPConn).SetLinger(0) // no TIME_WAIT
	c.Close()
	h.within(soon, "what has ended is shared", func() bool {
		m.Look() // rather than wait for inUsePeriod
		return strings.Contains(h.host.IP("rule"), "tcp dport 40001-65534")
	})
	for len(told) > 1 {
		<-told
	}
	h.within(soon, "and told", func() bool {
		for len(told) > 0 {
			used = <-told
		}
		return used.Ports.String() == "40000"
	})
	h.must("stop", stop())
	if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Errorf("left behind: (-before +after)\n%s", diff)
	}
}

// TestHostPoolPutBack: rules, tables and sysctls that somebody takes away are
// back within a second, and after SIGKILL a start adopts them.
func TestHostPoolPutBack(t *testing.T) {
	h := newHostLab(t)
	before := h.snapshot()
	h.startAndKill(sharing())
	if err := h.hostWorks(); err != nil {
		t.Errorf("after a kill: %v", err)
	}
	rules := h.rules()
	_, stop := h.start(sharing())
	if diff := cmp.Diff(rules, h.rules()); diff != "" {
		t.Errorf("after a second start: (-first +second)\n%s", diff)
	}
	table := h.host.Run("nft", "list", "table", "ip", "natless")
	for _, take := range []string{
		"ip rule del pref 0 to 192.0.2.10 ipproto udp dport 32768-65534",
		"ip route flush table 110",
		"nft delete table ip natless",
		"nft flush chain ip natless guard",
		"nft flush ruleset",
	} {
		f := strings.Fields(take)
		h.host.Run(f[0], f[1:]...)
		h.within(soon, take, func() bool {
			got, _ := h.host.Command("nft", "list", "table", "ip", "natless").Output()
			return h.rules() == rules && h.host.IP("route show table 110") != "" &&
				stripCounters(string(got)) == stripCounters(table)
		})
	}
	h.must("stop", stop())
	if diff := cmp.Diff(before, h.snapshot()); diff != "" {
		t.Errorf("left behind: (-before +after)\n%s", diff)
	}
}

// stripCounters leaves the numbers of packets and bytes out.
func stripCounters(s string) string {
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
		if i := strings.Index(line, "counter packets"); i >= 0 {
			rest := strings.Fields(line[i:])
			line = line[:i] + strings.Join(rest[5:], " ")
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// TestUplinkMoved: another address on the uplink is told, and followed.
func TestUplinkMoved(t *testing.T) {
	h := newHostLab(t)
	if a, err := uplinkAddr(h); err != nil || a.String() != hostAddr {
		t.Errorf("uplink address %v, %v", a, err)
	}
	m, _ := h.start(sharing())
	h.host.IP("addr add 192.0.2.11/24 dev eth0")
	h.host.IP("addr del 192.0.2.10/24 dev eth0")
	h.host.IP("addr add 192.0.2.11/24 dev eth0")
	select {
	case a := <-m.UplinkMoved():
		d := sharing()
		d.HostPool.Addr = a
		h.must("set", m.Set(d))
	case <-time.After(soon):
		t.Fatal("not told soon")
	}
	if got := h.host.IP("rule"); !strings.Contains(got, "to 192.0.2.11 ipproto tcp") || strings.Contains(got, "192.0.2.10") {
		t.Errorf("rules:\n%s", got)
	}
}

func uplinkAddr(h *hostLab) (a netip.Addr, err error) {
	h.host.Do(func() { a, err = UplinkAddr("eth0") })
	return a, err
}

// TestHostPoolDeviceGone: without the device the host lives and answers nothing
// for the workloads, and a new device is used at once.
func TestHostPoolDeviceGone(t *testing.T) {
	h := newHostLab(t)
	h.start(sharing())
	h.tun.close()
	h.within(soon, "device gone", func() bool { return h.host.IP("route show table 110") == "" })
	if err := h.hostWorks(); err != nil {
		t.Error(err)
	}
	// No reset: the connection of a workload must live until the device is back.
	if err := talk(h.net, "tcp4", hostAddr+":40000", "hello"); !isTimeout(err) {
		t.Errorf("got %v, want silence", err)
	}
	h.tun = openTUN(t, h.host, "natless0")
	h.within(soon, "device back", func() bool { return h.host.IP("route show table 110") != "" })
	rawTo(t, h, 0x11, udp(5000, 40000, ""))
	h.expect("a packet", equals("17 192.0.2.20>192.0.2.10 5000>40000"))
	h.within(soon, "copies go to the new device", func() bool {
		rawTo(t, h, 1, icmp4(0, 0, 40000, nil))
		return h.tun.saw(func(s string) bool { return strings.HasSuffix(s, " id 40000") })
	})
}

// ask sends a datagram where nobody is to answer.
func ask(ns *netns.NS, addr string) (err error) {
	ns.Do(func() {
		var c net.Conn
		if c, err = net.Dial("udp4", addr); err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = c.Write([]byte("anybody?"))
		_, err = c.Read(make([]byte, 100))
	})
	return err
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
