//go:build linux

package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/mapping"
)

// The far host is behind a router, which is the server, by a link of a smaller MTU.
const (
	farIPv4 = "203.0.113.2"
	farMTU  = 1400
)

// farHost makes it.
func (i *insiders) farHost(t *testing.T) *netns.NS {
	t.Helper()
	far := netns.New(t, "far")
	netns.Veth(t, i.server, "eth1", far, "eth0")
	i.server.IP("addr add 203.0.113.1/24 dev eth1")
	i.server.IP(fmt.Sprintf("link set eth1 mtu %d", farMTU))
	i.server.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0")
	far.IP("addr add " + farIPv4 + "/24 dev eth0")
	far.IP("route add default via 203.0.113.1")
	i.IP("route add 203.0.113.0/24 via " + serverIPv4)
	return far
}

// wire sees what comes in by an interface.
type wire struct {
	t  *testing.T
	fd int
}

func watch(t *testing.T, ns *netns.NS, dev string) *wire {
	t.Helper()
	w := &wire{t: t}
	var err error
	ns.Do(func() {
		var at *net.Interface
		if at, err = net.InterfaceByName(dev); err != nil {
			return
		}
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP))); err == nil {
			err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: at.Index})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// until gives all packets that hold a mark, until the last one, which holds this, has come
// and then none for a while: by two queues, or by the kernel, one may overtake another.
func (w *wire) until(mark, last string) (all [][]byte) {
	w.t.Helper()
	b := make([]byte, 65536)
	ended, quiet := false, 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			if quiet++; ended && quiet >= 4 { // of a tenth of a second each
				return all
			}
			continue
		}
		quiet = 0
		if p := string(b[:n]); strings.Contains(p, last) {
			ended = true
		} else if strings.Contains(p, mark) {
			all = append(all, slices.Clone(b[:n]))
		}
	}
	w.t.Errorf("%q did not come; %d packets with %q did", last, len(all), mark)
	return all
}

// raw is an IPv4 packet that a program in a container makes itself. The kernel fills in
// the header's checksum.
type raw struct {
	src, dst   string
	proto      byte
	tos        byte
	id, offset uint16 // flags and offset
	options    []byte
	upper      []byte
}

func (r raw) bytes() []byte {
	b := make([]byte, 20, 1500)
	size := 20 + len(r.options)
	b[0], b[1], b[8], b[9] = 0x40|byte(size/4), r.tos, 64, r.proto
	binary.BigEndian.PutUint16(b[2:], uint16(size+len(r.upper)))
	binary.BigEndian.PutUint16(b[4:], r.id)
	binary.BigEndian.PutUint16(b[6:], r.offset)
	copy(b[12:], netip.MustParseAddr(r.src).AsSlice())
	copy(b[16:], netip.MustParseAddr(r.dst).AsSlice())
	return append(append(b, r.options...), r.upper...)
}

// sends has a container send packets as they are.
func (p *pod) sends(t *testing.T, packets ...raw) {
	t.Helper()
	p.Do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		for _, r := range packets {
			to := unix.SockaddrInet4{Addr: netip.MustParseAddr(r.dst).As4()}
			if err := unix.Sendto(fd, r.bytes(), 0, &to); err != nil {
				t.Errorf("%s sends %+v: %v", p.Name, r, err)
			}
		}
	})
}

// ported is the beginning of a header that has ports first: of UDP without a checksum,
// and as much of others as the host looks at.
func ported(sport, dport uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(text)))
	return append(append(b, 0, 0), text...)
}

// icmp is a message with its checksum.
func icmp(typ, code byte, rest uint32, body []byte) []byte {
	m := append(binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest), body...)
	var s uint32
	for i := 0; i+1 < len(m); i += 2 {
		s += uint32(m[i])<<8 | uint32(m[i+1])
	}
	if len(m)%2 == 1 {
		s += uint32(m[len(m)-1]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(m[2:], ^uint16(s))
	return m
}

// share is what identifications of a workload may be.
func share(t *testing.T, w api.Workload) func(id uint16) bool {
	t.Helper()
	m := mapping.Mapping{IPv6: netip.PrefixFrom(w.Request.IPv6[0], 128), IPv4: netip.PrefixFrom(w.Address, 32), Ports: w.Ports}
	table, err := mapping.New(netip.MustParsePrefix(prefix), []mapping.Mapping{m})
	if err != nil {
		t.Fatal(err)
	}
	base, mask := table.Get(m.IPv6).IdentificationRange()
	return func(id uint16) bool { return id&^mask == base }
}

// ends is a datagram of a's own that comes after all else.
func (i *insiders) ends(t *testing.T, text string) {
	t.Helper()
	i.a.sends(t, raw{src: i.wa.Address.String(), dst: serverIPv4, proto: 17, options: []byte{1, 1, 1, 1}, upper: ported(i.wa.Run().First, 9, text)})
}

// untouched: of what is not the host's business nothing changes.
func (i *insiders) untouched(t *testing.T) {
	w, own := watch(t, i.server, "eth0"), share(t, i.wa)
	for n, options := range [][]byte{nil, {1, 1, 1, 0}} {
		for _, flags := range []uint16{0, 0x4000} {
			mark := fmt.Sprintf("untouched %d %d", n, flags)
			r := raw{src: i.wa.Address.String(), dst: serverIPv4, proto: 17, tos: 0xb9, id: 0xfffe, offset: flags, options: options,
				upper: ported(i.wa.Run().First+20, 9, mark)}
			i.a.sends(t, r)
			i.ends(t, "end of "+mark[:len(mark)-1])
			got, want := w.until(mark, "end of "+mark[:len(mark)-1]), r.bytes()
			if len(got) != 1 {
				t.Errorf("%s: %d packets", mark, len(got))
				continue
			}
			b := got[0]
			if id := binary.BigEndian.Uint16(b[4:]); !own(id) || b[8] != 63 {
				t.Errorf("%s: identification %d, TTL %d", mark, id, b[8])
			}
			for _, field := range [][2]int{{4, 6}, {8, 9}, {10, 12}} {
				copy(b[field[0]:field[1]], want[field[0]:field[1]])
			}
			if string(b) != string(want) {
				t.Errorf("%s:\ngot  %x\nwant %x", mark, b, want)
			}
		}
	}
}

// forged: what b makes to look like a's goes as b's own, or not at all, and is b's
// violation: ports, identifiers of echo, fragments, errors.
func (i *insiders) forged(t *testing.T) {
	w, ofB := watch(t, i.server, "eth0"), share(t, i.wb)
	before, err := i.b.workload(i.d.Client())
	if err != nil {
		t.Fatal(err)
	}
	s, its := i.wa.Address.String(), i.wa.Run().First+21
	quote := raw{src: serverIPv4, dst: s, proto: 17, upper: ported(9, its, "forged error")}
	for n := range 5 {
		id := uint16(0x4000 + n) // any: a's share is not asked for
		i.b.sends(t,
			raw{src: s, dst: serverIPv4, proto: 17, upper: ported(its, 9, "forged port")},
			raw{src: s, dst: serverIPv4, proto: 1, upper: icmp(8, 0, uint32(its)<<16, []byte("forged echo 01234567"))},
			raw{src: s, dst: serverIPv4, proto: 17, id: id, offset: 185, upper: []byte("forged fragment")},
			raw{src: s, dst: serverIPv4, proto: 17, id: id, offset: 0x4000 | 185, upper: []byte("forged fragment")},
			raw{src: s, dst: serverIPv4, proto: 1, upper: icmp(3, 4, 576, quote.bytes())})
	}
	i.b.sends(t, raw{src: s, dst: serverIPv4, proto: 17, options: []byte{1, 1, 1, 1}, upper: ported(i.wb.Run().First, 9, "end of forged")})
	kinds := map[string]int{}
	for _, b := range w.until("forged", "end of forged") {
		switch fragment := binary.BigEndian.Uint16(b[6:])&0x1fff != 0; {
		case fragment && ofB(binary.BigEndian.Uint16(b[4:])):
			kinds["fragment"]++
		case b[9] == 1 && b[20] == 8 && i.wb.Ports.Contains(binary.BigEndian.Uint16(b[24:])):
			kinds["echo"]++
		default:
			t.Errorf("forged: %x", b)
		}
	}
	if kinds["fragment"] != 10 || kinds["echo"] != 5 {
		t.Errorf("of 10 fragments and 5 echo requests came, as %s's own: %v", i.b.Name, kinds)
	}
	after, err := i.b.workload(i.d.Client())
	if err != nil || after.Violations < before.Violations+5 {
		t.Errorf("%d violations before, %d after, %v", before.Violations, after.Violations, err)
	}
}

// protocols: such as have ports, from one's own; others with an address of one's own
// alone.
func (i *insiders) protocols(t *testing.T) {
	w := watch(t, i.server, "eth0")
	s, own, others := i.wa.Address.String(), i.wa.Run().First+22, i.wb.Run().First+22
	numbers := map[string]byte{"sctp": 132, "dccp": 33, "udplite": 136, "gre": 47, "esp": 50}
	want := map[string]int{}
	for name, number := range numbers {
		upper := append(ported(own, 9, ""), make([]byte, 24)...)
		text := "protocol " + name
		i.a.sends(t, raw{src: s, dst: serverIPv4, proto: number, upper: append(upper, text...)},
			raw{src: s, dst: serverIPv4, proto: number, upper: append(append(ported(others, 9, ""), make([]byte, 24)...), text...)})
		if number != 47 && number != 50 {
			want[name] = 1
		}
		if i.whole != nil {
			i.whole.sends(t, raw{src: i.wwhole.Address.String(), dst: serverIPv4, proto: number, upper: append(upper, text...)})
			want[name]++
		}
	}
	i.ends(t, "end of protocols")
	got := map[string]int{}
	for _, b := range w.until("protocol ", "end of protocols") {
		for name, number := range numbers {
			if b[9] == number {
				got[name]++
			}
		}
		if b[12] == i.wa.Address.As4()[0] && binary.BigEndian.Uint16(b[20:]) == others {
			t.Errorf("from another's port: %x", b)
		}
	}
	for name := range numbers {
		if got[name] != want[name] {
			t.Errorf("%s: %d packets, want %d", name, got[name], want[name])
		}
	}
}

// traces: each router answers, the translator first.
func (i *insiders) traces(t *testing.T) {
	for _, how := range []string{"-U", "-I", "-T"} {
		out, err := i.a.Command("traceroute", "-n", "-4", how, "-q", "1", "-w", "10", "-m", "5", farIPv4).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err != nil || len(lines) != 4 || !strings.Contains(lines[1], " 192.0.0.10 ") || !strings.Contains(lines[2], " "+serverIPv4+" ") ||
			!strings.Contains(lines[3], " "+farIPv4+" ") {
			t.Errorf("traceroute %s: %v\n%s", how, err, out)
		}
	}
}

// mtuTo is the path MTU that a container learns where it may not be cut up.
func (p *pod) mtuTo(t *testing.T, to string) (mtu int) {
	t.Helper()
	c, _, err := p.dial("udp4", "", to+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sc, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	sc.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_, err := c.Write(make([]byte, 1472))
		sc.Control(func(fd uintptr) { mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU) })
		if errors.Is(err, syscall.EMSGSIZE) || mtu < 1500 {
			return mtu
		}
	}
	return mtu
}

// pathMTU: "too big" of a router on the way, and of this host, comes to the one of two
// containers that sent, and TCP goes by it.
func (i *insiders) pathMTU(t *testing.T) {
	if got := i.a.mtuTo(t, farIPv4); got != farMTU {
		t.Errorf("path MTU %d, want %d", got, farMTU)
	}
	if out := i.b.Run("ip", "-4", "route", "get", farIPv4); strings.Contains(out, "mtu") {
		t.Errorf("%s has heard of it: %s", i.b.Name, out)
	}
	s := echo(t, i.far, i.b, farIPv4, 7)
	if err := s.goes(); err != nil {
		t.Errorf("TCP by a small link: %v", err)
	}
	i.IP("link set uplink mtu 1400")
	defer i.IP("link set uplink mtu 1500")
	if got := i.a.mtuTo(t, serverIPv4); got != 1400 {
		t.Errorf("path MTU by the uplink %d, want 1400", got)
	}
}

// unconnected: one socket, whoever it writes to; and datagrams of many fragments between
// two containers.
func (i *insiders) unconnected(t *testing.T) {
	var l, c net.PacketConn
	var err error
	i.b.Do(func() { l, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", i.wb.Run().First+23)) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			l.WriteTo(b[:n], from)
		}
	}()
	i.a.Do(func() { c, err = net.ListenPacket("udp4", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(i.wb.Address, i.wb.Run().First+23))
	b := make([]byte, 65536)
	for _, size := range []int{1, 1473, 9000, 60000} {
		n := 0
		for range 5 { // fragments are lost now and then where neighbours are looked for
			c.WriteTo(make([]byte, size), to)
			c.SetReadDeadline(time.Now().Add(3 * time.Second))
			if n, _, err = c.ReadFrom(b); err == nil {
				break
			}
		}
		if err != nil || n != size {
			t.Errorf("%d bytes to %v: %d came back, %v", size, to, n, err)
		}
	}
	// Nobody listens there: the refusal is the container's own.
	var d net.Conn
	i.server.Do(func() { d, err = net.Dial("udp4", netip.AddrPortFrom(i.wb.Address, i.wb.Run().First+24).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.Write([]byte("?"))
	d.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := d.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a datagram where nobody listens: %v", err)
	}
}

// announced: what a program learns about itself and tells another is true, as in active
// FTP; what it binds outside its ports is its own alone.
func (i *insiders) announced(t *testing.T) {
	c, _, err := i.a.dial("tcp4", "", serverIPv4+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := listen(t, i.a.NS, net.JoinHostPort(c.LocalAddr().(*net.TCPAddr).IP.String(), "0"))
	go func() {
		for {
			back, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(back, "data")
			back.Close()
		}
	}()
	i.server.Do(func() { c, err = net.DialTimeout("tcp4", l.Addr().String(), 15*time.Second) })
	if err != nil {
		t.Fatalf("to %v, which it has announced: %v", l.Addr(), err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "data" {
		t.Errorf("from %v: %q %v", l.Addr(), b, err)
	}
	const outside = 5555
	own := listen(t, i.a.NS, fmt.Sprintf(":%d", outside))
	for to, want := range map[string]error{"127.0.0.1": nil, i.wa.Address.String(): syscall.ECONNREFUSED} {
		c, _, err := i.a.dial("tcp4", "", fmt.Sprintf("%s:%d", to, outside))
		if !errors.Is(err, want) {
			t.Errorf("%s:%d: %v, want %v", to, outside, err, want)
		}
		if c != nil {
			c.Close()
		}
	}
	own.Close()
	// An IPv6 socket with an IPv4 address in it is IPv4.
	i.a.Do(func() {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr("::ffff:" + serverIPv4).As16(), Port: 80}); err != nil {
			t.Errorf("an IPv6 socket to ::ffff:%s: %v", serverIPv4, err)
		}
	})
}

// echoes: fragments of ICMP show an identifier in the first of them alone, so that one of
// its own passes, and no other.
func (i *insiders) echoes(t *testing.T) {
	ping := func(id int) (string, error) {
		out, err := i.a.Command("ping", "-4", "-c", "2", "-i", "0.2", "-W", "2", "-s", "3000", "-e", fmt.Sprint(id), serverIPv4).CombinedOutput()
		return string(out), err
	}
	if out, err := ping(int(i.wa.Run().First) + 25); err != nil {
		t.Errorf("with an identifier of its own: %v\n%s", err, out)
	}
	if out, err := ping(int(i.wb.Run().First) + 25); err == nil {
		t.Errorf("with another's identifier:\n%s", out)
	}
}

// forced: who takes the way to the prefix all the same is told by the translator.
func (i *insiders) forced(t *testing.T) {
	gateway := strings.Fields(i.a.IP("-6 route show default"))[2]
	i.a.IP("-6 route add 2001:db8:64::192.0.2.2/128 via " + gateway + " dev eth0")
	defer i.a.IP("-6 route del 2001:db8:64::192.0.2.2/128")
	c, _, err := i.a.dial("tcp6", "", "["+server6+"]:80")
	if c != nil {
		c.Close()
	}
	if !errors.Is(err, syscall.EACCES) {
		t.Errorf("IPv6 to the prefix: %v", err)
	}
}

// nested: a container behind a's own NAT speaks where that keeps to a's ports, and else
// is told at once.
func (i *insiders) nested(t *testing.T) {
	inner := netns.New(t, "inner")
	netns.Veth(t, i.a.NS, "inner0", inner, "eth0")
	i.a.IP("addr add 10.88.0.1/24 dev inner0")
	inner.IP("addr add 10.88.0.2/24 dev eth0")
	inner.IP("route add default via 10.88.0.1")
	i.a.Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	defer i.a.Run("sysctl", "-qw", "net.ipv4.ip_forward=0")
	defer i.a.IP("link del inner0")
	run := i.wa.Run()
	for n, c := range []struct {
		to   string
		want error
	}{{fmt.Sprintf("to :%d-%d", run.First, run.Last), nil}, {"", syscall.EHOSTUNREACH}} {
		i.a.Run("nft", "add table ip dind; add chain ip dind post { type nat hook postrouting priority srcnat; }; "+
			"add rule ip dind post ip saddr 10.88.0.0/24 meta l4proto tcp masquerade "+c.to)
		var conn net.Conn
		var err error
		inner.Do(func() {
			d := net.Dialer{Timeout: 15 * time.Second, LocalAddr: &net.TCPAddr{Port: 40000 + n}} // not a's
			conn, err = d.Dial("tcp4", serverIPv4+":80")
		})
		if !errors.Is(err, c.want) {
			t.Errorf("masquerade %q: %v, want %v", c.to, err, c.want)
		}
		if conn != nil {
			conn.Close()
		}
		i.a.Run("nft", "delete table ip dind")
	}
}
