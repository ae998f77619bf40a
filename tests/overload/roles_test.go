//go:build linux

package overload

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/tests/daemon"
)

// roles are what this program becomes in the namespaces: each on threads of its own, as
// containers' programs are.
var roles = map[string]func(args []string) error{
	"flood": flood, "serve": serve, "stream": stream, "ping": ping,
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// kinds are what a flooder can send.
var kinds = []string{"udp", "options", "fragments", "ports", "icmp", "syn", "own"}

const (
	burst   = 64
	packets = 4096 // different ones of a flood
)

// flood sends packets of a kind as fast as it can until its standard input ends:
// kind, source, destination, the first of 1024 ports that are its own. It says how
// many it sent.
func flood(args []string) error {
	first, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	src, dst := netip.MustParseAddr(args[1]), netip.MustParseAddr(args[2])
	name := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: dst.As16()}
	type mmsghdr struct {
		unix.Msghdr
		n uint32
		_ [4]byte
	}
	all, vectors := make([]mmsghdr, packets), make([]unix.Iovec, packets)
	for i := range all {
		b := craft(args[0], src, dst, uint16(first), i)
		vectors[i] = unix.Iovec{Base: &b[0], Len: uint64(len(b))}
		all[i].Name, all[i].Namelen = (*byte)(unsafe.Pointer(name)), unix.SizeofSockaddrInet6
		all[i].Iov, all[i].Iovlen = &vectors[i], 1
	}
	fmt.Println("ready")
	sent := uint64(0)
	for more, at := untilInputEnds(), 0; more(); at = (at + burst) % packets {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&all[at])), burst, 0, 0, 0)
		if errno == 0 {
			sent += uint64(n)
		}
	}
	fmt.Println(sent)
	return nil
}

func untilInputEnds() func() bool {
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		over.Store(true)
	}()
	return func() bool { return !over.Load() }
}

// craft is the i-th packet of a flood.
func craft(kind string, src, dst netip.Addr, first uint16, i int) []byte {
	own := first + uint16(i%1024)
	switch kind {
	case "options":
		return ip6(src, dst, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp6(src, dst, own, 9, 18)...))
	case "fragments":
		b := []byte{17, 0, 0, 1, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(b[4:], uint32(i))
		return ip6(src, dst, 44, append(b, udp6(src, dst, own, 9, 64)...))
	case "ports":
		return ip6(src, dst, 17, udp6(src, dst, first+2048+uint16(i), 9, 18))
	case "icmp": // an echo request with an identifier that is not its own
		b := make([]byte, 16)
		b[0] = 128
		binary.BigEndian.PutUint16(b[4:], first+2048+uint16(i))
		sum := header.PseudoHeaderChecksum(58, tcpip.AddrFrom16(src.As16()), tcpip.AddrFrom16(dst.As16()), uint16(len(b)))
		binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, sum))
		return ip6(src, dst, 58, b)
	case "syn":
		b := make([]byte, header.TCPMinimumSize)
		header.TCP(b).Encode(&header.TCPFields{SrcPort: own, DstPort: streamPort, SeqNum: uint32(i) << 16, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
		sum := header.PseudoHeaderChecksum(6, tcpip.AddrFrom16(src.As16()), tcpip.AddrFrom16(dst.As16()), uint16(len(b)))
		binary.BigEndian.PutUint16(b[16:], ^checksum.Checksum(b, sum))
		return ip6(src, dst, 6, b)
	}
	return ip6(src, dst, 17, udp6(src, dst, own, 9, 18)) // udp, own
}

func ip6(src, dst netip.Addr, next uint8, payload []byte) []byte {
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: header.UDPProtocolNumber, HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(src.As16()), DstAddr: tcpip.AddrFrom16(dst.As16())})
	b[6] = next
	return append(b, payload...)
}

func udp6(src, dst netip.Addr, from, to uint16, size int) []byte {
	b := make([]byte, header.UDPMinimumSize+size)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(len(b))})
	sum := header.PseudoHeaderChecksum(17, tcpip.AddrFrom16(src.As16()), tcpip.AddrFrom16(dst.As16()), uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], ^checksum.Checksum(b, sum))
	return b
}

const (
	streamPort = 5201
	echoPort   = 5202
)

// serve takes streams, and sends datagrams back, until its standard input ends.
func serve([]string) error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", streamPort))
	if err != nil {
		return err
	}
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{Port: echoPort})
	if err != nil {
		return err
	}
	go func() {
		for b := make([]byte, 2048); ; {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			echo.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for b := make([]byte, 256<<10); ; {
					if _, err := c.Read(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// stream sends for a time: target, local port, time. It says how many bytes were
// acknowledged, over how many seconds, and how many segments were sent again.
func stream(args []string) error {
	length, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	local, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{Port: local}, Timeout: 30 * time.Second}
	d.Control = reuse
	conn, err := d.Dial("tcp6", net.JoinHostPort(args[0], strconv.Itoa(streamPort)))
	if err != nil {
		return err
	}
	block := make([]byte, 128<<10)
	began := time.Now()
	conn.SetDeadline(began.Add(length))
	for err == nil {
		_, err = conn.Write(block)
	}
	info, err := tcpInfo(conn)
	if err != nil {
		return err
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	fmt.Println(info.Bytes_acked, time.Since(began).Seconds(), info.Total_retrans)
	return nil
}

func reuse(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
}

func tcpInfo(c net.Conn) (info *unix.TCPInfo, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return info, err
}

// ping measures round trips: target, local port, time, whether with destination options, which
// the fast path leaves to the daemon. It says how many were asked, how many answered, and in µs the median
// and the 99th percentile.
func ping(args []string) error {
	local, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	length, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	addr := netip.MustParseAddr(args[0])
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: local}); err != nil {
		return err
	}
	if args[3] == "true" {
		const ipv6DstOpts = 59
		if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, ipv6DstOpts, string([]byte{0, 0, 1, 4, 0, 0, 0, 0})); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: echoPort, Addr: addr.As16()}); err != nil {
		return err
	}
	const patience = 200 * time.Millisecond
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: patience.Microseconds()})
	var trips []float64
	asked := 0
	out, in := make([]byte, 64), make([]byte, 64)
	for end := time.Now().Add(length); time.Now().Before(end); asked++ {
		binary.BigEndian.PutUint32(out, uint32(asked))
		start := time.Now()
		unix.Write(fd, out)
		for time.Since(start) < patience {
			n, err := unix.Read(fd, in)
			if err == nil && n >= 4 && binary.BigEndian.Uint32(in) == uint32(asked) {
				trips = append(trips, float64(time.Since(start).Nanoseconds())/1e3)
				break
			}
		}
		time.Sleep(500 * time.Microsecond)
	}
	if len(trips) == 0 {
		fmt.Println(asked, 0, 0, 0)
		return nil
	}
	slices.Sort(trips)
	fmt.Println(asked, len(trips), trips[len(trips)/2], trips[len(trips)*99/100])
	return nil
}
