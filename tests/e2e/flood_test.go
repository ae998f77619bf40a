//go:build linux

package e2e

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// flood sends a datagram to address each millisecond from a port of ns until the
// test ends.
func flood(t *testing.T, ns *netns.NS, port int, address string) {
	t.Helper()
	var conn *net.UDPConn
	var err error
	ns.Do(func() { conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: port}) })
	if err != nil {
		t.Fatal(err)
	}
	to, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped; conn.Close() })
	go func() {
		defer close(stopped)
		for began, sent := time.Now(), 0; ; time.Sleep(time.Millisecond) {
			select {
			case <-stop:
				return
			default:
			}
			for ; sent < int(time.Since(began).Milliseconds()); sent++ { // also where the machine is slow
				conn.WriteTo([]byte("x"), to)
			}
		}
	}()
}

// tooBig sends n datagrams of 1450 bytes that nobody may fragment, and says how
// many errors came that they are too big.
func tooBig(t *testing.T, ns *netns.NS, port int, address string, n int) int {
	t.Helper()
	v6 := strings.HasPrefix(address, "[")
	network, typ, level, option, probe := "ip4:icmp", byte(3), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if v6 {
		network, typ, level, option, probe = "ip6:ipv6-icmp", byte(2), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	udp := map[bool]string{true: "udp6", false: "udp4"}[v6]
	var conn *net.UDPConn
	var errors net.PacketConn
	var err error
	ns.Do(func() {
		if conn, err = net.ListenUDP(udp, &net.UDPAddr{Port: port}); err == nil {
			errors, err = net.ListenPacket(network, "")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer errors.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, probe) })
	if err != nil {
		t.Fatal(err)
	}
	to, err := net.ResolveUDPAddr(udp, address)
	if err != nil {
		t.Fatal(err)
	}
	var heard atomic.Int64
	go func() {
		for b := make([]byte, 2048); ; {
			k, _, err := errors.ReadFrom(b)
			if err != nil {
				return
			}
			if k > 8 && b[0] == typ && (v6 || b[1] == 4) {
				heard.Add(1)
			}
		}
	}()
	for range n {
		conn.WriteTo(make([]byte, 1450), to)
		time.Sleep(5 * time.Millisecond)
	}
	for end := time.Now().Add(20 * time.Second); heard.Load() < int64(n) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	return int(heard.Load())
}

// upload sends 4 MB over a path whose MTU is not known yet.
func (n *topology) upload(from *netns.NS, l net.Listener) time.Duration {
	n.t.Helper()
	from.IP("-6 route flush cache")
	_, port, _ := net.SplitHostPort(l.Addr().String())
	began := time.Now()
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.DialTimeout("tcp", net.JoinHostPort(serverv6, port), 20*time.Second) })
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	defer peer.Close()
	deadline := began.Add(30 * time.Second)
	conn.SetDeadline(deadline)
	peer.SetDeadline(deadline)
	go func() {
		conn.Write(make([]byte, 4<<20))
		conn.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.Copy(io.Discard, peer); err != nil || got != 4<<20 {
		n.t.Errorf("upload: %d bytes, %v", got, err)
	}
	return time.Since(began)
}

// TestFloods: a workload that sends a thousand datagrams a second from ports that
// are not its own, and a remote host that sends as many to ports that nobody has,
// leave the others' "too big" to them, each one, in both directions; an upload
// learns the MTU of its path at once.
func TestFloods(t *testing.T) {
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, poolsConfig+"mtu: {ipv4: 1400, ipv6: 1400}\n")
	one := n.put("one", workload1, n.w1, api.Request{Name: "one"})
	n.put("two", workload2, n.w2, api.Request{Name: "two"})
	port := int(one.Run().First)
	l := listen(t, n.server)
	quiet := n.upload(n.w1, l)
	check := func() {
		t.Helper()
		if heard := tooBig(t, n.w1, port, "["+serverv6+"]:9", 25); heard != 25 {
			t.Errorf("the workload heard %d of 25 errors", heard)
		}
		if heard := tooBig(t, n.server, 0, net.JoinHostPort(one.Address.String(), strconv.Itoa(port)), 25); heard != 25 {
			t.Errorf("the remote host heard %d of 25 errors", heard)
		}
		if took := n.upload(n.w1, l); took > 10*quiet+10*time.Second {
			t.Errorf("an upload took %v, without a flood %v", took, quiet)
		} else {
			t.Logf("upload in %v, without a flood %v", took, quiet)
		}
	}
	check()
	flood(t, n.w2, 100, "["+serverv6+"]:9")
	flood(t, n.far, 0, net.JoinHostPort(one.Address.String(), "100"))
	within(t, 30*time.Second, "the floods' own budgets are used up", func() bool {
		s, err := n.daemon.Client().Status(t.Context())
		return err == nil && limited(s, "icmp-errors other", "workload") > 500 && limited(s, "icmp-errors other", "source") > 500
	})
	check()
	s, err := n.daemon.Client().Status(t.Context())
	if err != nil || limited(s, "icmp-errors too-big", "workload")+limited(s, "icmp-errors too-big", "source") > 0 {
		t.Errorf("limits: %+v, %v", s.Limits, err)
	}
	if got := n.natless("status"); !strings.Contains(got, "icmp-errors other") {
		t.Errorf("natless status does not say what was refused:\n%s", got)
	}
}

func limited(s api.Status, what, budget string) uint64 {
	for _, l := range s.Limits {
		if l.What == what && l.Budget == budget {
			return l.Refused
		}
	}
	return 0
}
