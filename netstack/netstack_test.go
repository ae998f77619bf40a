package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// No packet and no goroutine may be left.
func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksPanic)
	code := m.Run()
	if code == 0 {
		refs.DoLeakCheck()
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

var (
	prefix    = netip.MustParsePrefix("2001:db8:64::/96")
	workload6 = netip.MustParseAddr("2001:db8:6::2")
	workload4 = netip.MustParseAddr("198.51.100.2")
	server4   = netip.MustParseAddr("192.0.2.2")
	server46  = netip.MustParseAddr("2001:db8:64::192.0.2.2")
	native6   = netip.MustParseAddr("2001:db8:1::1")
)

func newTranslator(t testing.TB, c translator.Config) *translator.Translator {
	t.Helper()
	table, err := mapping.New(prefix, []mapping.Mapping{{
		IPv6: netip.PrefixFrom(workload6, 128), IPv4: netip.PrefixFrom(workload4, 32),
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.IPv4, c.IPv6 = netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")
	tr, err := translator.New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// side is which end of the link the translator is on.
type side struct {
	name        string
	client      bool
	here, there []netip.Addr // addresses above the endpoint, and beyond the link
	to, from    netip.Addr   // the far host as seen from here, and the reverse
}

var sides = []side{
	{"IPv6 above IPv4", false, []netip.Addr{workload6}, []netip.Addr{server4}, server46, workload4},
	{"IPv4 above IPv6", true, []netip.Addr{workload4}, []netip.Addr{server46}, server4, workload6},
}

// pair is two hosts with a wire between them and the endpoint at the first.
type pair struct {
	here, there *host.Host
	wire        *wire
}

func newPair(t testing.TB, s side, mtu int, loss, reorder float64) *pair {
	t.Helper()
	c := translator.Config{Client: s.client, MTU4: mtu, MTU6: mtu + growth, LowestMTU6: mtu + growth}
	if s.client {
		c.MTU4, c.MTU6, c.LowestMTU6 = mtu-20, mtu, mtu
	}
	p := &pair{wire: newWire(t, mtu, loss, reorder)}
	p.here = newHost(t, Translate(p.wire.ends[0], newTranslator(t, c)), s.here...)
	p.there = newHost(t, p.wire.ends[1], s.there...)
	return p
}

func newHost(t testing.TB, link stack.LinkEndpoint, addrs ...netip.Addr) *host.Host {
	t.Helper()
	h, err := host.New(link, addrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func eachSide(t *testing.T, test func(t *testing.T, s side)) {
	for _, s := range sides {
		t.Run(s.name, func(t *testing.T) { test(t, s) })
	}
}

// still is how long nothing may move on a connection.
const still = time.Minute

// impatient gives a connection's end as long again each time it moves something.
type impatient struct{ net.Conn }

func (m impatient) Read(b []byte) (int, error) {
	m.SetReadDeadline(time.Now().Add(still))
	return m.Conn.Read(b)
}

func (m impatient) Write(b []byte) (int, error) {
	m.SetWriteDeadline(time.Now().Add(still))
	return m.Conn.Write(b)
}

// send moves n bytes from one end of a TCP connection to the other and compares
// their sums. during is called with how far it is.
func send(from, to net.Conn, n int64, during func(int64)) error {
	type result struct {
		sum []byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		h := sha256.New()
		buf := make([]byte, 256<<10)
		var at int64
		for {
			k, err := impatient{to}.Read(buf)
			h.Write(buf[:k])
			if at += int64(k); during != nil {
				during(at)
			}
			if err == io.EOF {
				got <- result{h.Sum(nil), nil}
				return
			}
			if err != nil {
				got <- result{nil, fmt.Errorf("after %d bytes: %w", at, err)}
				return
			}
		}
	}()
	h := sha256.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{impatient{from}}, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), n), h), make([]byte, 256<<10))
	if err != nil {
		from.Close()
		to.Close()
		r := <-got
		return fmt.Errorf("write: %w; read: %w", err, r.err)
	}
	from.(interface{ CloseWrite() error }).CloseWrite()
	r := <-got
	if r.err == nil && !bytes.Equal(r.sum, h.Sum(nil)) {
		r.err = errors.New("another sum")
	}
	return r.err
}

// connect makes a TCP connection from one host to an address of the other.
func connect(t testing.TB, from, to *host.Host, dial, listen netip.Addr) (client, server net.Conn) {
	t.Helper()
	ln, err := to.ListenTCP(netip.AddrPortFrom(listen, 5001))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if client, err = from.DialContext(ctx, "tcp", netip.AddrPortFrom(dial, 5001).String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

// TestTCP moves data both ways and looks at the addresses that each end sees.
func TestTCP(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		p := newPair(t, s, 1500, 0, 0)
		client, server := connect(t, p.here, p.there, s.to, s.there[0])
		if got := server.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != s.from {
			t.Errorf("the server sees %s, want %s", got, s.from)
		}
		if err := send(client, server, 10<<20, nil); err != nil {
			t.Error("from here:", err)
		}
		if err := send(server, client, 10<<20, nil); err != nil {
			t.Error("from there:", err)
		}
		client, server = connect(t, p.there, p.here, s.from, s.here[0])
		if err := send(client, server, 10<<20, nil); err != nil {
			t.Error("opened from there:", err)
		}
	})
}

// TestUDP sends datagrams of all sizes, in fragments too, and has them echoed.
func TestUDP(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		p := newPair(t, s, 1500, 0, 0)
		pc, err := p.there.ListenUDP(netip.AddrPortFrom(s.there[0], 5002))
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go func() {
			buf := make([]byte, 65535)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo(buf[:n], from)
			}
		}()
		c, err := p.here.DialContext(t.Context(), "udp", netip.AddrPortFrom(s.to, 5002).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf := make([]byte, 65535)
		for _, size := range []int{0, 1, 2, 1000, 1400, 1452, 1472, 1473, 4000, 20000, 60000} {
			payload := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := c.Write(payload); err != nil {
				t.Fatal(size, err)
			}
			c.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], payload) {
				t.Errorf("%d octets: %d, %v", size, n, err)
			}
		}
	})
}

func TestPing(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		p := newPair(t, s, 1500, 0, 0)
		for _, size := range []int{0, 56, 1400} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			if _, err := p.here.Ping(ctx, s.to, 0, make([]byte, size)); err != nil {
				t.Error("from here:", err)
			}
			if _, err := p.there.Ping(ctx, s.from, 0, make([]byte, size)); err != nil {
				t.Error("from there:", err)
			}
			cancel()
		}
	})
}

// TestErrors: what the other side says is heard, and what the translator says
// itself, in both directions.
func TestErrors(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		p := newPair(t, s, 1500, 0, 0)
		if _, err := p.here.DialContext(t.Context(), "tcp", netip.AddrPortFrom(s.to, 9).String()); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("tcp to a closed port: %v", err)
		}
		if err := udpError(t, p.here, s.to); !strings.Contains(err.Error(), "refused") {
			t.Errorf("udp from here to a closed port: %v", err)
		}
		if err := udpError(t, p.there, s.from); !strings.Contains(err.Error(), "refused") {
			t.Errorf("udp from there to a closed port: %v", err)
		}
	})
}

// udpError is what a sender of a datagram hears.
func udpError(t *testing.T, h *host.Host, to netip.Addr) error {
	c, err := h.DialContext(t.Context(), "udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	for range 30 { // gVisor tells of the error when asked to read, not a reader that waits
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err = c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
			return err
		}
	}
	return err
}

// TestOthersPass: IPv6 that has nothing to do with the prefix stays as it is,
// in both directions, and so do its ICMP errors.
func TestOthersPass(t *testing.T) {
	s := sides[1]
	s.here, s.there = append(s.here, native6), append(s.there, native6.Next())
	p := newPair(t, s, 1500, 0, 0)
	client, server := connect(t, p.here, p.there, native6.Next(), native6.Next())
	if got := server.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != native6 {
		t.Errorf("the server sees %s", got)
	}
	if err := send(client, server, 1<<20, nil); err != nil {
		t.Error(err)
	}
	if err := udpError(t, p.there, native6); !strings.Contains(err.Error(), "refused") {
		t.Errorf("native port unreachable: %v", err)
	}
	if err := udpError(t, p.here, native6.Next()); !strings.Contains(err.Error(), "refused") {
		t.Errorf("native port unreachable: %v", err)
	}
}
