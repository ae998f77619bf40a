//go:build linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/tests/netns"
)

// end is one end of a TCP connection.
type end struct {
	*testing.T
	*net.TCPConn
}

func (e end) control(f func(fd int) error) {
	e.Helper()
	raw, err := e.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = f(int(fd)) })
	}
	if err != nil {
		e.Fatal(err)
	}
}

// sequence is the number of what it sends next, and with nothing on the way also
// that of the last that an error may be about.
func (e end) sequence() (n uint32) {
	e.Helper()
	const sendQueue, offWithoutProbe = 2, -1 // of tcp(7)'s TCP_REPAIR
	e.control(func(fd int) (err error) {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return err
		}
		defer unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, offWithoutProbe)
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, sendQueue); err != nil {
			return err
		}
		v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		n = uint32(v)
		return err
	})
	return n
}

// mtu is what it believes of its path.
func (e end) mtu() (n uint32) {
	e.Helper()
	e.control(func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = i.Pmtu
		}
		return err
	})
	return n
}

// lives sends a byte each way.
func lives(t *testing.T, what string, a, b net.Conn) {
	t.Helper()
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		c[0].SetDeadline(time.Now().Add(10 * time.Second))
		c[1].SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c[0].Write([]byte{1}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := io.ReadFull(c[1], make([]byte, 1)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// forged is an ICMP error that quotes TCP from one to the other.
func forged(typ, code byte, rest uint32, from, to netip.AddrPort, sequence uint32) []byte {
	src, dst := from.Addr(), to.Addr()
	quote := make([]byte, 60)
	if src.Is4() {
		quote = quote[:40]
		header.IPv4(quote).Encode(&header.IPv4Fields{TotalLength: 40, TTL: 60, Protocol: 6,
			SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4())})
	} else {
		header.IPv6(quote).Encode(&header.IPv6Fields{PayloadLength: 20, HopLimit: 60, TransportProtocol: header.TCPProtocolNumber,
			SrcAddr: tcpip.AddrFrom16(src.As16()), DstAddr: tcpip.AddrFrom16(dst.As16())})
	}
	header.TCP(quote[len(quote)-20:]).Encode(&header.TCPFields{SrcPort: from.Port(), DstPort: to.Port(), SeqNum: sequence,
		DataOffset: 20, Flags: header.TCPFlagAck})
	b := append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, quote...)
	binary.BigEndian.PutUint32(b[4:], rest)
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0)) // the kernel makes that of ICMPv6
	return b
}

// heard is a counter of a namespace's /proc/net/snmp6.
func heard(t *testing.T, ns *netns.NS, name string) int {
	t.Helper()
	out, err := ns.Command("cat", "/proc/net/snmp6").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}

// TestForgedErrorsAgainstTCP: errors about a connection of others, with the right
// addresses and ports. Another workload's reach nobody; those of a host of the
// IPv4 side do, as anywhere, and the kernel tells them by the sequence number,
// which must be there; even with the right one the connection lives, with an MTU
// no less than IPv6's least.
func TestForgedErrorsAgainstTCP(t *testing.T) {
	netns.Require(t, netns.Root)
	n := newTopology(t, "uplink: uplink\n")
	l := listen(t, n.server)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var c net.Conn
	var err error
	n.w1.Do(func() { c, err = net.DialTimeout("tcp", net.JoinHostPort(serverv6, port), 20*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	mine, theirs := end{t, c.(*net.TCPConn)}, end{t, accepted.(*net.TCPConn)}
	lives(t, "before", c, accepted)
	mtu := mine.mtu()
	send := func(ns *netns.NS, proto int, from, to string, body []byte) {
		t.Helper()
		var err error
		ns.Do(func() { err = sendRaw(proto, netip.MustParseAddr(from), netip.MustParseAddr(to), body) })
		if err != nil {
			t.Fatal(err)
		}
	}
	local, remote := c.LocalAddr().(*net.TCPAddr).Port, c.RemoteAddr().(*net.TCPAddr).Port
	at := func(a string, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(a), uint16(port))
	}

	// Another workload speaks about what the server sent to the first.
	from, to := at(serverv6, remote), at(workload1, local)
	seq, believed := theirs.sequence(), theirs.mtu()
	for typ, codes := range []int{1: 7, 2: 1, 3: 2, 4: 2} {
		for code := range codes {
			rest := map[bool]uint32{true: 68}[typ == 2]
			send(n.w2, unix.IPPROTO_ICMPV6, workload2, serverv6, forged(byte(typ), byte(code), rest, from, to, seq))
		}
	}
	within(t, 10*time.Second, "the other workload's errors are dropped", func() bool {
		return strings.Contains(strings.Join(strings.Fields(n.natless("status")), " "), "spoofed-source 12 ")
	})
	lives(t, "after another workload's errors", c, accepted)
	if got := theirs.mtu(); got != believed {
		t.Errorf("another workload has the server believe in an MTU of %d", got)
	}

	// A host of the IPv4 side speaks about what the workload sent.
	from, to = at(workload1v4, local), at(server, remote)
	for _, wrong := range []uint32{1 << 20, 0} {
		seq := mine.sequence() + wrong
		before := heard(t, n.w1, "Icmp6InMsgs")
		sent := 0
		for typ, codes := range map[byte][]byte{3: {0, 1, 2, 3, 4, 9, 13}, 11: {0, 1}, 12: {0}} {
			for _, code := range codes {
				rest := map[bool]uint32{true: 68}[typ == 3 && code == 4]
				send(n.far, unix.IPPROTO_ICMP, far, workload1v4, forged(typ, code, rest, from, to, seq))
				sent++
			}
		}
		within(t, 10*time.Second, "the remote host's errors arrive", func() bool { return heard(t, n.w1, "Icmp6InMsgs") >= before+sent })
		what := fmt.Sprintf("sequence number wrong by %d", wrong)
		lives(t, what, c, accepted)
		want := mtu
		if wrong == 0 {
			want = 1280
		}
		if got := mine.mtu(); got != want {
			t.Errorf("%s: the workload believes in an MTU of %d, want %d", what, got, want)
		}
	}
}
