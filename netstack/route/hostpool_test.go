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
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
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
		HostPool: HostPool{Addr: netip.MustParseAddr(hostAddr), Ports: ports.MustParse("32768-65535")},
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
// rp_filter off, strict and loose for the whole host, and on a host that tracks
// connections, where the kernel reassembles fragments before we see them.
func TestHostPoolTraffic(t *testing.T) {
	for _, c := range []struct{ name, rp, firewall string }{
		{"rp_filter=0", "0", ""}, {"rp_filter=1", "1", ""}, {"rp_filter=2", "2", ""},
		{"rp_filter=2 and connection tracking", "2",
			"table ip other { chain in { type filter hook input priority 0; ct state established,related accept; }; " +
				"chain nat { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 masquerade; }; }"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, rp := newHostLab(t), c.rp
			h.host.Run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter="+rp)
			if c.firewall != "" {
				h.host.Run("nft", c.firewall)
			}
			before, rulesetBefore := h.snapshot(), h.host.Run("nft", "-t", "list", "ruleset")
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
			if got := h.host.Run("nft", "-t", "list", "ruleset"); got != rulesetBefore {
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
	h.net.Do(func() {
		c, err := net.Dial("udp4", hostAddr+":40000")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, err = c.Write(make([]byte, 4000))
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, e := c.Read(make([]byte, 1)); err != nil || errors.Is(e, unix.ECONNREFUSED) {
			t.Errorf("the host answered: %v, %v", err, e)
		}
	})
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
