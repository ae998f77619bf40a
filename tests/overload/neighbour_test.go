//go:build linux

package overload

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// neighbour does what lines ask for, and answers each with figures, or with why not.
func neighbour([]string) error {
	does := map[string]func([]string) (string, error){"stream": stream, "ping": ping, "up": up, "down": down, "names": resolve}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		answer, err := does[words[0]](words[1:])
		if err != nil {
			answer = "! " + err.Error()
		}
		fmt.Println(answer)
	}
	return nil
}

// port gives the neighbour's ports one after the other.
var lastPort = quietPort

func port() int {
	if lastPort++; lastPort >= quietPort+1024 {
		lastPort = quietPort + 1
	}
	return lastPort
}

func dial(address string, port int, patience time.Duration) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: patience}
	d.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}
	return d.Dial("tcp6", address)
}

// stream sends for a time. It says how many bytes were acknowledged, over how many seconds,
// and how many segments were sent again.
func stream(args []string) (string, error) {
	length, err := time.ParseDuration(args[0])
	if err != nil {
		return "", err
	}
	conn, err := dial(net.JoinHostPort(server6, strconv.Itoa(streamPort)), port(), 30*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	block := make([]byte, 128<<10)
	began := time.Now()
	conn.SetDeadline(began.Add(length))
	for err == nil {
		_, err = conn.Write(block)
	}
	took := time.Since(began)
	info, err := tcpInfo(conn)
	if err != nil {
		return "", err
	}
	conn.(*net.TCPConn).SetLinger(0)
	return fmt.Sprint(info.Bytes_acked, took.Seconds(), info.Total_retrans), nil
}

func tcpInfo(c net.Conn) (info *unix.TCPInfo, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return info, err
}

// lost stands for a round trip that had no end.
const lost = 1e6

// ping measures round trips for a time: of plain datagrams, or of ones with destination options,
// which the fast path leaves to the daemon; and how long an answer is waited for. It says how
// long each took in µs.
func ping(args []string) (string, error) {
	length, err := time.ParseDuration(args[0])
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port()}); err != nil {
		return "", err
	}
	if args[1] == "options" {
		const ipv6DstOpts = 59
		if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, ipv6DstOpts, string([]byte{0, 0, 1, 4, 0, 0, 0, 0})); err != nil {
			return "", err
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: echoPort, Addr: netip.MustParseAddr(server6).As16()}); err != nil {
		return "", err
	}
	patience, err := time.ParseDuration(args[2])
	if err != nil {
		return "", err
	}
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	var trips strings.Builder
	out, in := make([]byte, 64), make([]byte, 64)
	end := time.Now().Add(length)
	for asked := uint32(0); time.Now().Before(end); asked++ {
		binary.BigEndian.PutUint32(out, asked)
		trip, start := float64(lost), time.Now()
		unix.Write(fd, out)
		for time.Since(start) < patience {
			if n, err := unix.Read(fd, in); err == nil && n >= 4 && binary.BigEndian.Uint32(in) == asked {
				trip = float64(time.Since(start).Nanoseconds()) / 1e3
				break
			}
		}
		fmt.Fprintf(&trips, "%.0f ", trip)
		time.Sleep(500 * time.Microsecond)
	}
	return trips.String(), nil
}

// up sends some bytes to a place that nothing is known of yet, behind links that take less
// than the neighbour's own: its path MTU has to be found. It says how long it took in µs.
func up(args []string) (string, error) {
	return took(func(patience time.Duration) error {
		os.WriteFile("/proc/sys/net/ipv6/route/flush", []byte("1"), 0)
		c, err := dial(net.JoinHostPort(args[0], strconv.Itoa(streamPort)), port(), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(make([]byte, transfer)); err != nil {
			return err
		}
		c.(*net.TCPConn).CloseWrite()
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	})
}

// down is given some bytes by a server that knows of no such link.
func down([]string) (string, error) {
	return took(func(patience time.Duration) error {
		c, err := dial(net.JoinHostPort(server6, strconv.Itoa(downPort)), port(), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if n, err := io.Copy(io.Discard, c); err != nil || n != transfer {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
		return nil
	})
}

// took is how long something took in µs, or lost.
func took(do func(patience time.Duration) error) (string, error) {
	began := time.Now()
	if err := do(5 * time.Second); err != nil {
		return fmt.Sprint(5 * lost), nil
	}
	return fmt.Sprint(time.Since(began).Microseconds()), nil
}

// resolve asks DNS64 for names in a zone, that it does not have yet, for a time. It says how
// long each took in µs.
func resolve(args []string) (string, error) {
	length, err := time.ParseDuration(args[0])
	if err != nil {
		return "", err
	}
	c, err := net.DialUDP("udp6", &net.UDPAddr{Port: port()}, &net.UDPAddr{IP: net.ParseIP(own6), Port: 53})
	if err != nil {
		return "", err
	}
	defer c.Close()
	var all strings.Builder
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		trip, start := float64(lost), time.Now()
		if ask(c, fmt.Sprintf("q%d.%s", start.UnixNano(), args[1]), start.Add(time.Second)) == nil {
			trip = float64(time.Since(start).Nanoseconds()) / 1e3
		}
		fmt.Fprintf(&all, "%.0f ", trip)
	}
	return all.String(), nil
}

func ask(c net.Conn, name string, until time.Time) error {
	q := new(dns.Msg).SetQuestion(name, dns.TypeAAAA)
	b, err := q.Pack()
	if err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	c.SetReadDeadline(until)
	for in := make([]byte, 2048); ; {
		n, err := c.Read(in)
		if err != nil {
			return err
		}
		var m dns.Msg
		if m.Unpack(in[:n]) != nil || m.Id != q.Id {
			continue
		}
		if len(m.Answer) == 0 {
			return errors.New("no answer")
		}
		return nil
	}
}
