//go:build linux

package e2e

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"github.com/natless/natless/tests/netns"
)

// optionAreas are options as a stranger may send them (RFC 791 3.1): with the first
// of them a packet arrives, with the others it is refused, here or by the kernel.
var optionAreas = [][]byte{
	{1, 1, 1, 1}, {7, 7, 4, 0, 0, 0, 0, 0}, {68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {148, 4, 0, 0}, {130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	{131, 7, 4, 192, 0, 2, 9, 0}, {137, 11, 8, 1, 2, 3, 4, 192, 0, 2, 9, 0}, // source routes that are not used up
	{7, 1, 0, 0}, {7, 99, 4, 0}, {1, 1, 1, 7}, {131, 2, 0, 0}, {68, 5, 5, 0x40, 9, 0, 0, 0}, // lengths that lie
}

const arriving = 5

// datagramWith is UDP from the server with IPv4 options.
func datagramWith(options []byte, dst string, port uint16) []byte {
	b := make([]byte, 20+len(options)+8)
	b[0], b[8], b[9] = byte(0x45+len(options)/4), 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	src, to := netip.MustParseAddr(server).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], src[:])
	copy(b[16:], to[:])
	copy(b[20:], options)
	u := b[20+len(options):]
	binary.BigEndian.PutUint16(u, 53)
	binary.BigEndian.PutUint16(u[2:], port)
	binary.BigEndian.PutUint16(u[4:], 8)
	pseudo := append(append([]byte{}, b[12:20]...), 0, unix.IPPROTO_UDP, 0, 8)
	binary.BigEndian.PutUint16(u[6:], ^checksum.Checksum(u, checksum.Checksum(pseudo, 0)))
	return b
}

// optionsFlood sends a thousand datagrams a second with all kinds of options until
// the test ends; sent counts rounds of one of each.
func optionsFlood(t *testing.T, n *topology, dst string, port uint16) (sent *atomic.Int64) {
	t.Helper()
	fd := -1
	var err error
	n.server.Do(func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW) })
	if err != nil {
		t.Fatal(err)
	}
	sent = new(atomic.Int64)
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped; unix.Close(fd) })
	go func() {
		defer close(stopped)
		for ; ; time.Sleep(10 * time.Millisecond) {
			select {
			case <-stop:
				return
			default:
			}
			for _, options := range optionAreas {
				unix.Sendto(fd, datagramWith(options, dst, port), 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(dst).As4()})
			}
			sent.Add(1)
		}
	}()
	return sent
}

// TestOptionsFlood: what comes with options arrives without them, or is refused,
// and as many of those as come leave the others theirs: "too big" is heard each
// time, an upload goes on, and the daemon does not grow.
func TestOptionsFlood(t *testing.T) {
	netns.Require(t, netns.Root)
	n := newTopology(t, "mtu: {ipv4: 1400, ipv6: 1400}\n")
	n.host.Run("sysctl", "-qw", "net.ipv4.conf.all.accept_source_route=1", "net.ipv4.conf.uplink.accept_source_route=1")
	var conn *net.UDPConn
	var err error
	n.w1.Do(func() { conn, err = net.ListenUDP("udp6", &net.UDPAddr{}) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
	var arrived atomic.Int64
	go func() {
		for b := make([]byte, 64); ; arrived.Add(1) {
			if _, _, err := conn.ReadFromUDP(b); err != nil {
				return
			}
		}
	}()
	before := field(t, proc(t, n.daemon.PID(), "status"), "VmRSS:")
	sent := optionsFlood(t, n, workload1v4, port)
	within(t, 20*time.Second, "what has harmless options arrives", func() bool { return arrived.Load() >= 100*arriving })
	if got := arrived.Load(); got > arriving*(sent.Load()+1) {
		t.Errorf("of %d of each kind, %d arrived", sent.Load(), got)
	}
	within(t, 20*time.Second, "source routes are refused", func() bool {
		return strings.Contains(strings.Join(strings.Fields(n.natless("status")), " "), "source-route ")
	})
	if heard := tooBig(t, n.far, 0, net.JoinHostPort(workload1v4, strconv.Itoa(int(port))), 25); heard != 25 {
		t.Errorf("another host heard %d of 25 errors", heard)
	}
	n.upload(n.w2, listen(t, n.server))
	if after := field(t, proc(t, n.daemon.PID(), "status"), "VmRSS:"); after > before+32<<10 {
		t.Errorf("the daemon grew from %d to %d kB", before, after)
	}
	if _, err := n.daemon.Client().Status(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("%d of each of %d kinds, %d arrived", sent.Load(), len(optionAreas), arrived.Load())
}
