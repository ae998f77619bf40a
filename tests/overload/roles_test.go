//go:build linux

package overload

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/natless/natless/tests/daemon"
)

// roles are what this program becomes in the namespaces: each on threads of its own, as
// containers' programs are.
var roles = map[string]func(args []string) error{"flood": flood, "serve": serve, "neighbour": neighbour, "crowd": many}

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

const (
	streamPort = 5201 // takes streams, and says when one is over
	echoPort   = 5202 // gives datagrams back
	downPort   = 5203 // gives some bytes
	transfer   = 200 << 10

	deadNames, scarceNames = "dead.example.", "scarce.example."
)

// serve is the server until its standard input ends.
func serve([]string) error {
	for _, s := range []struct {
		port int
		do   func(net.Conn)
	}{{streamPort, sink}, {downPort, give}} {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", s.port))
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					s.do(c)
				}()
			}
		}()
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
	names, err := net.ListenPacket("udp4", ":53")
	if err != nil {
		return err
	}
	go (&dns.Server{PacketConn: names, Handler: dns.HandlerFunc(name)}).ActivateAndServe()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
	}
	return nil
}

func sink(c net.Conn) {
	for b := make([]byte, 256<<10); ; {
		if _, err := c.Read(b); err != nil {
			c.Write([]byte{1})
			return
		}
	}
}

func give(c net.Conn) { c.Write(make([]byte, transfer)) }

var scarcity = rate.NewLimiter(scarce, scarce/10)

// name answers any name with an IPv4 address, but those that are dead or scarce.
func name(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 || strings.HasSuffix(q.Question[0].Name, deadNames) ||
		strings.HasSuffix(q.Question[0].Name, scarceNames) && !scarcity.Allow() {
		return
	}
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 2)}}
	}
	w.WriteMsg(m)
}

// many is a crowd of workloads of which each sends a little: how many, and how many packets a
// second all of them. The fast path leaves them to the daemon.
func many(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	perSecond, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	const each = 5 * time.Millisecond
	server := netip.MustParseAddr(server6)
	to := &unix.SockaddrInet6{Addr: server.As16()}
	go func() {
		at := 0
		for range time.Tick(each) {
			for range perSecond * int(each/time.Millisecond) / 1000 {
				unix.Sendto(fd, craft("options", netip.MustParseAddr(crowd6(at%n)), server, uint16(crowdPort(at%n)), at/n), 0, to)
				at++
			}
		}
	}()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
	}
	return nil
}
