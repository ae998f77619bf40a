//go:build linux

package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/natless/natless/tests/netns"
	"golang.org/x/sys/unix"
)

const (
	hostAddr = "192.0.2.10" // of the host, shared
	peerAddr = "192.0.2.20" // an IPv4 host on the uplink
)

func sharing() Desired {
	return Desired{
		MTU: 1500, Uplink: "eth0",
		Prefix:   netip.MustParsePrefix("64:ff9b::/96"),
		IPv4:     netip.MustParseAddr("192.0.2.1"),
		HostPool: HostPool{Addr: netip.MustParseAddr(hostAddr), Ports: []PortRange{{32768, 65535}}},
	}
}

// hostLab is a lab whose device is in the test's hands and whose host and peer
// serve each other.
type hostLab struct {
	*lab
	tun *testTUN
}

func newHostLab(t *testing.T) *hostLab {
	l := newLab(t)
	netns.Require(t, "ping", "nft")
	l.host.IP("link del natless0")
	h := &hostLab{lab: l, tun: openTUN(t, l.host, "natless0")}
	l.host.IP("link set natless0 addrgenmode none")
	l.host.IP("link set natless0 up")
	serveEcho(t, l.host, hostAddr+":8080")
	serveEcho(t, l.net, peerAddr+":8080")
	return h
}

// serveEcho answers TCP and UDP with what it gets.
func serveEcho(t *testing.T, ns *netns.NS, addr string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	var err1, err2 error
	ns.Do(func() {
		tcp, err1 = net.Listen("tcp4", addr)
		udp, err2 = net.ListenPacket("udp4", addr)
	})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					_, _ = c.Write(b[:n])
				}
			}()
		}
	}()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(b[:n], from)
		}
	}()
}

// exchange sends and gets the same back.
func exchange(c net.Conn, text string) error {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	b := make([]byte, 65536)
	n, err := c.Read(b)
	if err == nil && string(b[:n]) != text {
		err = fmt.Errorf("got %d other bytes back", n)
	}
	return err
}

// talk makes a new connection and uses it.
func talk(ns *netns.NS, network, addr, text string) (err error) {
	ns.Do(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, addr, 2*time.Second); err == nil {
			defer c.Close()
			err = exchange(c, text)
		}
	})
	if err != nil {
		err = fmt.Errorf("%s to %s: %w", network, addr, err)
	}
	return err
}

// hostWorks checks the host's own connectivity: both ways, new connections of
// each kind, large datagrams (fragments), and pings with identifiers inside and
// outside the pool's ports.
func (h *hostLab) hostWorks(established ...net.Conn) error {
	big := strings.Repeat("x", 4000)
	err := errors.Join(
		talk(h.host, "tcp4", peerAddr+":8080", "hello"), talk(h.net, "tcp4", hostAddr+":8080", "hello"),
		talk(h.host, "udp4", peerAddr+":8080", "hello"), talk(h.net, "udp4", hostAddr+":8080", big),
		talk(h.host, "tcp4", hostAddr+":8080", "to itself"),
	)
	for _, c := range established {
		if e := exchange(c, "still there"); e != nil {
			err = errors.Join(err, fmt.Errorf("established connection: %w", e))
		}
	}
	for _, id := range []string{"40000", "2000"} {
		err = errors.Join(err, ping(h.host, peerAddr, id), ping(h.net, hostAddr, id))
	}
	return err
}

func ping(ns *netns.NS, addr, id string) error {
	out, err := ns.Command("ping", "-c", "1", "-W", "2", "-e", id, addr).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ping %s with identifier %s: %w: %s", addr, id, err, out)
	}
	return nil
}

func (h *hostLab) expect(what string, match func(string) bool) {
	h.t.Helper()
	if !h.tun.saw(match) {
		h.t.Errorf("%s did not come to the device; what came: %q", what, h.tun.packets())
	}
}

func equals(want string) func(string) bool { return func(s string) bool { return s == want } }

// TestHostPoolTraffic: what is for the workloads comes to the device, what is
// the host's stays with the host, and what the device sends goes out; with
// rp_filter off, strict and loose for the whole host.
func TestHostPoolTraffic(t *testing.T) {
	for _, rp := range []string{"0", "1", "2"} {
		t.Run("rp_filter="+rp, func(t *testing.T) {
			h := newHostLab(t)
			h.host.Run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter="+rp)
			before := h.snapshot()
			_, stop := h.start(sharing())
			t.Run("inbound", func(t *testing.T) { testInbound(t, h) })
			t.Run("icmp", func(t *testing.T) { testInboundICMP(t, h) })
			t.Run("fragments", func(t *testing.T) { testFragments(t, h) })
			t.Run("outbound", func(t *testing.T) { testOutbound(t, h) })
			if err := h.hostWorks(); err != nil {
				t.Error(err)
			}
			for range 20 {
				checkLocalPort(t, h)
			}
			if rp != "0" {
				if got := h.host.Run("nft", "list", "table", "ip", "natless"); !strings.Contains(got, "for rp_filter") {
					t.Errorf("no mark rules:\n%s", got)
				}
			}
			h.must("stop", stop())
			if diff := cmp.Diff(before, h.snapshot()); diff != "" {
				t.Errorf("left behind: (-before +after)\n%s", diff)
			}
			if got := h.host.Run("nft", "list", "ruleset"); got != "" {
				t.Errorf("left behind:\n%s", got)
			}
			if err := h.hostWorks(); err != nil {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// checkLocalPort: the host's own connections take no port of the pool.
func checkLocalPort(t *testing.T, h *hostLab) {
	t.Helper()
	h.host.Do(func() {
		c, err := net.Dial("tcp4", peerAddr+":8080")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if port := c.LocalAddr().(*net.TCPAddr).Port; port >= 32768 {
			t.Errorf("the host took port %d of the pool", port)
		}
	})
}

// rawTo sends an IPv4 packet of a protocol from the peer to the host.
func rawTo(t *testing.T, h *hostLab, proto byte, payload []byte) {
	t.Helper()
	var err error
	h.net.Do(func() {
		var c net.Conn
		if c, err = net.Dial(fmt.Sprintf("ip4:%d", proto), hostAddr); err == nil {
			defer c.Close()
			_, err = c.Write(payload)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testInbound(t *testing.T, h *hostLab) {
	for _, proto := range portProtocols {
		for _, port := range []uint16{32768, 40000, 65535} {
			rawTo(t, h, proto, append(udp(5000, port, ""), make([]byte, 12)...))
			h.expect("a packet", equals(fmt.Sprintf("%d %s>%s 5000>%d", proto, peerAddr, hostAddr, port)))
		}
		rawTo(t, h, proto, append(udp(5000, 32767, ""), make([]byte, 12)...))
	}
	time.Sleep(50 * time.Millisecond)
	for _, p := range h.tun.packets() {
		if strings.Contains(p, ">32767") {
			t.Errorf("the host's packet came to the device: %s", p)
		}
	}
}

func testInboundICMP(t *testing.T, h *hostLab) {
	h.tun.forget()
	quote := func(proto byte, l4 []byte) []byte { return packet4(hostAddr, peerAddr, proto, l4) }
	for _, kind := range icmpErrors {
		for _, proto := range portProtocols {
			rawTo(t, h, unix.IPPROTO_ICMP, icmp4(kind, 0, 0, quote(proto, udp(40000, uint16(proto), ""))))
		}
		h.expect("an icmp error", equals(fmt.Sprintf("1 %s>%s icmp %d/0 %s id 0", peerAddr, hostAddr, kind, sumOf(kind, 0, 0, quote(unix.IPPROTO_UDP, udp(40000, 17, ""))))))
		rawTo(t, h, unix.IPPROTO_ICMP, icmp4(kind, 1, 0, quote(unix.IPPROTO_ICMP, icmp4(8, 0, 40001, nil))))
		h.expect("an icmp error about echo", func(s string) bool { return strings.Contains(s, fmt.Sprintf("icmp %d/1", kind)) })
	}
	if n := len(h.tun.packets()); n != len(icmpErrors)*(len(portProtocols)+1) {
		t.Errorf("%d icmp errors came: %q", n, h.tun.packets())
	}
	h.tun.forget()
	rawTo(t, h, unix.IPPROTO_ICMP, icmp4(0, 0, 40000, nil))
	h.expect("an echo reply", func(s string) bool { return strings.HasSuffix(s, " id 40000") && strings.Contains(s, "icmp 0/0") })

	h.tun.forget() // and what is the host's does not come
	rawTo(t, h, unix.IPPROTO_ICMP, icmp4(3, 3, 0, quote(unix.IPPROTO_UDP, udp(2000, 53, ""))))
	rawTo(t, h, unix.IPPROTO_ICMP, icmp4(0, 0, 2000, nil))
	rawTo(t, h, unix.IPPROTO_ICMP, icmp4(8, 0, 40000, nil))
	time.Sleep(50 * time.Millisecond)
	if got := h.tun.packets(); len(got) != 0 {
		t.Errorf("the host's own came to the device: %q", got)
	}
}

// sumOf gives the first two words of an ICMP message as describe prints them.
func sumOf(kind, code byte, id uint16, body []byte) string {
	m := icmp4(kind, code, id, body)
	return fmt.Sprintf("%d>%d", int(m[0])<<8|int(m[1]), int(m[2])<<8|int(m[3]))
}

// testFragments: a long datagram for a workload comes whole, and the host does
// not answer it with "port unreachable".
func testFragments(t *testing.T, h *hostLab) {
	h.tun.forget()
	err := talk(h.net, "udp4", hostAddr+":40000", strings.Repeat("x", 4000))
	if errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the host answered: %v", err)
	}
	for _, offset := range []string{"frag 0", "frag 1480", "frag 2960"} {
		h.expect("fragment "+offset, func(s string) bool { return strings.Contains(s, offset) })
	}
	h.tun.forget()
	if err := talk(h.net, "udp4", hostAddr+":8080", strings.Repeat("x", 4000)); err != nil {
		t.Errorf("the host's own fragments: %v", err)
	}
	for _, p := range h.tun.packets() {
		if strings.Contains(p, "frag 0") {
			t.Errorf("a first fragment of the host's came to the device: %s", p)
		}
	}
}

func testOutbound(t *testing.T, h *hostLab) {
	h.tun.forget()
	h.tun.send(packet4(hostAddr, peerAddr, unix.IPPROTO_UDP, udp(40000, 8080, "ping")))
	h.expect("the peer's answer", equals(fmt.Sprintf("17 %s>%s 8080>40000", peerAddr, hostAddr)))
	h.tun.send(packet4(hostAddr, peerAddr, unix.IPPROTO_ICMP, icmp4(8, 0, 40002, nil)))
	h.expect("the peer's echo reply", func(s string) bool { return strings.HasSuffix(s, "id 40002") })
	// A workload uses a service of the host itself.
	h.tun.send(packet4(hostAddr, hostAddr, unix.IPPROTO_UDP, udp(40003, 8080, "ping")))
	h.expect("the host's answer", equals(fmt.Sprintf("17 %s>%s 8080>40003", hostAddr, hostAddr)))
	h.tun.send(packet4(hostAddr, hostAddr, unix.IPPROTO_ICMP, icmp4(8, 0, 40004, nil)))
	h.expect("the host's echo reply", func(s string) bool { return strings.HasSuffix(s, "id 40004") })
}

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
			if n := strings.Count(h.host.IP("rule"), "proto 110"); n != len(portProtocols)+1 {
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
	k, err := openKernel("natless0")
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

// TestHostPoolRefusesUsedPorts: with what the host has in the range, by name,
// and nothing is left changed.
func TestHostPoolRefusesUsedPorts(t *testing.T) {
	h := newHostLab(t)
	before := h.snapshot()
	serveEcho(t, h.host, "0.0.0.0:40000")
	serveEcho(t, h.host, "127.0.0.1:40001") // nobody else's business
	var c net.Conn
	h.host.Do(func() {
		c, _ = (&net.Dialer{LocalAddr: &net.TCPAddr{Port: 40002}}).Dial("tcp4", peerAddr+":8080")
	})
	defer c.Close()
	m, err := New(h.config)
	h.must("new", err)
	h.must("set", m.Set(sharing()))
	h.host.Do(func() { err = m.Run(t.Context()) })
	var used *RangeInUseError
	if !errors.As(err, &used) {
		t.Fatalf("got %v, want a RangeInUseError", err)
	}
	want := []string{
		"tcp 0.0.0.0:40000 listening",
		"tcp 192.0.2.10:40002 to 192.0.2.20:8080 established",
		"udp 0.0.0.0:40000 bound",
	}
	if diff := cmp.Diff(want, used.Sockets); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
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
	sortedRules := func() string { // the order within a priority means nothing
		rules := strings.Split(h.host.IP("rule"), "\n")
		slices.Sort(rules)
		return strings.Join(rules, "\n")
	}
	rules := sortedRules()
	_, stop := h.start(sharing())
	if diff := cmp.Diff(rules, sortedRules()); diff != "" {
		t.Errorf("after a second start: (-first +second)\n%s", diff)
	}
	table := h.host.Run("nft", "list", "table", "ip", "natless")
	for _, take := range []string{
		"ip rule del pref 32 to 192.0.2.10 ipproto udp dport 32768-65534",
		"ip route flush table 110",
		"nft delete table ip natless",
		"nft flush chain ip natless guard",
		"nft flush ruleset",
	} {
		f := strings.Fields(take)
		h.host.Run(f[0], f[1:]...)
		h.within(time.Second, take, func() bool {
			got, _ := h.host.Command("nft", "list", "table", "ip", "natless").Output()
			return sortedRules() == rules && h.host.IP("route show table 110") != "" &&
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
