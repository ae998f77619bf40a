//go:build linux

package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// moved: a container that gives its interface another MAC address is reached at once,
// from outside, by others, by the daemon, and reaches as before.
func (i *insiders) moved(t *testing.T) {
	port := int(i.wb.Run().First) + 27
	i.b.answers(t, port)
	reached := func(when string) {
		t.Helper()
		for _, from := range []struct {
			name string
			commander
		}{{"the server", i.server}, {i.a.Name, i.a}, {i.six.Name, i.six}} {
			to := i.wb.Address.String()
			if from.name == i.six.Name {
				to = "[2001:db8:64::" + to + "]"
			}
			if got, err := gets(from, fmt.Sprintf("http://%s:%d/", to, port)); err != nil || got != i.b.Name {
				t.Errorf("%s, from %s: %q, %v", when, from.name, got, err)
			}
		}
		if out, err := i.b.Command("ping", "-4", "-c", "2", "-i", "0.2", "-W", "9", serverIPv4).CombinedOutput(); err != nil {
			t.Errorf("%s, ping: %v\n%s", when, err, out)
		}
	}
	reached("before")
	i.b.IP("link set eth0 address 02:00:00:00:be:ef")
	reached("after")
}

// never: to what is nobody's, or everybody's, nothing leaves the host, and nothing there
// answers, least of all for the address of clouds' metadata.
func (i *insiders) never(t *testing.T) {
	i.IP("addr add 169.254.169.254/32 dev lo")
	l := listen(t, i.NS, "169.254.169.254:80")
	var c net.Conn
	var err error
	i.a.Do(func() { c, err = net.DialTimeout("tcp4", "169.254.169.254:80", time.Second) })
	if err == nil {
		c.Close()
		t.Error("169.254.169.254 of the host answers")
	}
	l.Close()
	i.IP("addr del 169.254.169.254/32 dev lo") // the host would send from there
	w := watch(t, i.server, "eth0")
	for n, to := range []string{"224.0.0.251", "239.1.2.3", "255.255.255.255", "192.0.2.255", "240.0.0.1", "169.254.9.9", "0.0.0.1"} {
		i.a.broadcasts(t, to, raw{src: i.wa.Address.String(), dst: to, proto: 17, upper: ported(i.wa.Run().First+28, 9, fmt.Sprint("never ", n))})
	}
	i.ends(t, "end of never")
	if got := w.until("never ", "end of never"); len(got) != 0 {
		t.Errorf("on the wire: %x", got)
	}
}

// sockets: what programs ask of a socket besides an address is as with any IPv4.
func (i *insiders) sockets(t *testing.T) {
	for _, c := range []struct {
		what       string
		option     func(fd int) error
		network    string
		port       int
		want       error // of the connection, or of the answer to a datagram
		inTheShare bool
	}{
		{"SO_BINDTODEVICE", func(fd int) error { return unix.BindToDevice(fd, "eth0") }, "tcp4", 80, nil, true},
		{"bound before it knows where to", func(fd int) error { return unix.Bind(fd, &unix.SockaddrInet4{}) }, "tcp4", 80, nil, true},
		{"IP_BIND_ADDRESS_NO_PORT", func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
				unix.Bind(fd, &unix.SockaddrInet4{Addr: i.wa.Address.As4()}))
		}, "tcp4", 80, nil, true},
		{"IP options", func(fd int) error {
			return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x00")
		}, "tcp4", 80, nil, true},
		{"a TTL of 1", func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 1) }, "tcp4", 80, unix.EHOSTUNREACH, false},
		{"a datagram where nobody listens", func(int) error { return nil }, "udp4", 5, unix.ECONNREFUSED, true},
		{"a connection where nobody listens", func(int) error { return nil }, "tcp4", 5, unix.ECONNREFUSED, false},
	} {
		var conn net.Conn
		var err error
		i.a.Do(func() {
			d := net.Dialer{Timeout: 20 * time.Second, Control: func(_, _ string, raw syscall.RawConn) (err error) {
				return errors.Join(raw.Control(func(fd uintptr) { err = c.option(int(fd)) }), err)
			}}
			conn, err = d.Dial(c.network, net.JoinHostPort(serverIPv4, fmt.Sprint(c.port)))
		})
		if err == nil && c.network == "udp4" {
			conn.Write([]byte("?"))
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err = conn.Read(make([]byte, 9))
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if conn == nil {
			continue
		}
		if at := netip.MustParseAddrPort(conn.LocalAddr().String()); c.inTheShare && (at.Addr() != i.wa.Address || !i.wa.Ports.Contains(at.Port())) {
			t.Errorf("%s: from %v, want one of %v %v", c.what, at, i.wa.Address, i.wa.Ports)
		}
		conn.Close()
	}
	for _, how := range [][]string{{"-I", "eth0"}, {"-I", i.wa.Address.String()}, {"-R"}, {"-T", "tsonly"}, {"-M", "do", "-s", "1464"}} { // and the trailer
		if out, err := i.a.Command("ping", append(how, "-4", "-c", "2", "-i", "0.2", "-W", "9", serverIPv4)...).CombinedOutput(); err != nil {
			t.Errorf("ping %v: %v\n%s", how, err, out)
		}
	}
}

// broadcasts sends what the kernel asks for a right to, where it has a way at all.
func (p *pod) broadcasts(t *testing.T, to string, r raw) {
	t.Helper()
	p.Do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		err = unix.Sendto(fd, r.bytes(), 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()})
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("to %s: %v", to, err)
		}
	})
}

// ownTools: where an engine's containers are seen to, programs of the container itself
// do what they always did; removed, they leave nothing.
func (i *insiders) ownTools(t *testing.T) {
	if i.engine == nil {
		return
	}
	var served netip.AddrPort // by the last of them
	for _, p := range []*pod{i.a, i.b} {
		out, err := i.engine.output("exec", p.Name, "sh", "-c", fmt.Sprintf("wget -q -O - http://%s/ | sha256sum", serverIPv4))
		if err != nil || !strings.HasPrefix(out, i.web.sum) {
			t.Errorf("wget in %s: %v %s", p.Name, err, out)
		}
		if out, err := i.engine.output("exec", p.Name, "ping", "-c", "2", "-W", "9", serverIPv4); err != nil {
			t.Error(err, out)
		}
		if served, err = i.engine.inbound(i.d, p.Name); err != nil {
			t.Error(err)
		}
	}
	// One container to another, by the address that both have.
	out, err := i.engine.output("exec", i.a.Name, "wget", "-q", "-O", "-", fmt.Sprintf("http://%s/", served))
	if err != nil || out != i.b.Name {
		t.Errorf("from %s to %s: %q %v", i.a.Name, i.b.Name, out, err)
	}
	if _, err := i.engine.output("rm", "--all", "--force", "--time", "0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() error {
		list, err := i.d.Client().List(t.Context(), apiAll)
		if err == nil && len(list) != 0 {
			err = fmt.Errorf("%d workloads are left", len(list))
		}
		return err
	})
}
