//go:build linux

package e2e

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// synFlood sends up to a hundred SYNs a millisecond from ns to a port of the
// translator's own IPv6 address, from an address of its network that nobody answers at, until
// the test ends; sent counts them.
func synFlood(t *testing.T, ns *netns.NS, source string, port uint16) (sent *atomic.Int64) {
	t.Helper()
	fd := -1
	var err error
	ns.Do(func() { fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW) })
	if err != nil {
		t.Fatal(err)
	}
	src, dst := tcpip.AddrFrom16(netip.MustParseAddr(source).As16()), tcpip.AddrFrom16(netip.MustParseAddr(own6).As16())
	packet := make([]byte, header.IPv6MinimumSize+header.TCPMinimumSize)
	header.IPv6(packet).Encode(&header.IPv6Fields{PayloadLength: header.TCPMinimumSize, TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst})
	tcp := header.TCP(packet[header.IPv6MinimumSize:])
	to := &unix.SockaddrInet6{Addr: netip.MustParseAddr(own6).As16()}
	sent = new(atomic.Int64)
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped; unix.Close(fd) })
	go func() {
		defer close(stopped)
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			tcp.Encode(&header.TCPFields{SrcPort: uint16(i), DstPort: port, SeqNum: i, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
			sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, header.TCPMinimumSize)
			binary.BigEndian.PutUint16(tcp[16:], ^checksum.Checksum(tcp, sum))
			if unix.Sendto(fd, packet, 0, to) == nil {
				sent.Add(1)
			}
			if i%100 == 99 { // some machines have little to spare
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return sent
}

// TestSYNFlood: while one floods the translator's own address with SYNs, another
// workload's health checks and queries over TCP are answered, and the daemon does
// not grow.
func TestSYNFlood(t *testing.T) {
	daemon.OnePath(t, "what is for the translator itself is always answered by the daemon")
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, poolsConfig+"health: {port: 8080}\n")
	before := field(t, proc(t, n.daemon.PID(), "status"), "VmRSS:")
	sent := synFlood(t, n.w2, "2001:db8:7::dead", 8080)
	within(t, 20*time.Second, "the flood", func() bool { return sent.Load() > 2000 })
	used, began := cpu(t, n.daemon.PID()), time.Now()
	var took []time.Duration
	for range 20 {
		start := time.Now()
		n.w1.Do(func() {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(own6, "8080"), 20*time.Second)
			if err != nil {
				t.Error(err)
				return
			}
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
			r, err := client.Get("http://natless/readyz")
			if err != nil {
				t.Error(err)
				return
			}
			if r.Body.Close(); r.StatusCode != 200 {
				t.Errorf("status %d", r.StatusCode)
			}
		})
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	after := field(t, proc(t, n.daemon.PID(), "status"), "VmRSS:")
	t.Logf("%d SYNs in all; health checks in %v, the slowest in %v; the daemon used %v of CPU in %v; %d kB → %d kB resident",
		sent.Load(), took[len(took)/2], took[len(took)-1], cpu(t, n.daemon.PID())-used, time.Since(began), before, after)
	within(t, 20*time.Second, "the flood's own share is used up", func() bool {
		s, err := n.daemon.Client().Status(t.Context())
		return err == nil && limited(s, "local-packets", "sender") > 0
	})
	if after > before+32<<10 {
		t.Errorf("the daemon grew from %d to %d kB", before, after)
	}
}
