package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

func TestMain(m *testing.M) {
	refs.SetLeakMode(refs.LeaksPanic)
	code := m.Run()
	refs.DoLeakCheck()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

var own = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

// peer is a gVisor host at the other end of the local stack.
type peer struct {
	*host.Host
	link  *channel.Endpoint
	addrs [2]netip.Addr
	local *Stack

	foreign atomic.Int32 // packets by IPv4, where there is a translator
	lost    atomic.Int64 // packets of the peer that the stack did not take
}

// patient is how long something may take on a machine that has much to do.
const patient = 20 * time.Second

// run starts a local stack with a peer until the test ends.
func run(t testing.TB, c Config) *peer {
	t.Helper()
	p := &peer{
		link:  channel.New(512, 1500, ""),
		addrs: [2]netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8:6::2")},
	}
	var err error
	if p.Host, err = newHost(p.link, p.addrs[:]); err != nil {
		t.Fatal(err)
	}
	c.IPv4, c.IPv6 = own[0], own[1]
	c.Write = func(q *translator.Packet) error {
		protocol := header.IPv4ProtocolNumber
		if q.Bytes()[0]>>4 == 6 {
			protocol = header.IPv6ProtocolNumber
		} else if c.Translator != nil {
			p.foreign.Add(1)
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(q.Bytes())})
		defer pkt.DecRef()
		p.link.InjectInbound(protocol, pkt)
		return nil
	}
	if p.local, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := p.local.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	tasks.Go(func() {
		for {
			pkt := p.link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			v := pkt.ToView()
			if !p.send(c.Translator, v.AsSlice()) {
				p.lost.Add(1)
			}
			v.Release()
			pkt.DecRef()
		}
	})
	<-p.local.Ready()
	t.Cleanup(func() {
		cancel()
		tasks.Wait()
		p.Host.Close()
		p.link.Close()
	})
	return p
}

// send gives a packet to the local stack, by way of a translator if there is
// one, and reports whether nothing refused it.
func (p *peer) send(t *translator.Translator, b []byte) bool {
	if t == nil {
		return p.local.Deliver(b)
	}
	buf := make([]byte, translator.Headroom+len(b)+translator.Tailroom)
	q := translator.Packet{Buf: buf, Start: translator.Headroom, End: translator.Headroom + copy(buf[translator.Headroom:], b)}
	return t.NewWorker().Translate(&q) != translator.Local || p.local.Deliver(q.Bytes())
}

func (p *peer) dial(a netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	return p.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String())
}

func (p *peer) ping(a netip.Addr, payload []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	_, err := p.Ping(ctx, a, 0, payload)
	return err
}

func TestEcho(t *testing.T) {
	p := run(t, Config{})
	for _, a := range own {
		for _, size := range []int{0, 56, 1400, 3000, 20000} { // the last ones in fragments
			if err := p.ping(a, bytes.Repeat([]byte{7}, size)); err != nil {
				t.Errorf("%s, %d octets: %v", a, size, err)
			}
		}
	}
}

// TestRefusals: a reset for TCP, port unreachable for UDP, and nothing that
// listens by accident.
func TestRefusals(t *testing.T) {
	p := run(t, Config{})
	for _, a := range own {
		for _, port := range []uint16{22, 53, 80} {
			began := time.Now()
			if c, err := p.dial(a, port); err == nil {
				c.Close()
				t.Errorf("tcp %s:%d is open", a, port)
			} else if time.Since(began) > 2*time.Second {
				t.Errorf("tcp %s:%d: %v, after %v", a, port, err, time.Since(began))
			}
			c, err := p.DialContext(t.Context(), "udp", netip.AddrPortFrom(a, port).String())
			if err != nil {
				t.Fatal(err)
			}
			c.Write([]byte("x"))
			// gVisor tells of the error when asked to read, not a reader that waits.
			for range 20 {
				c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err = c.Read(make([]byte, 1)); !errors.As(err, new(net.Error)) || !err.(net.Error).Timeout() {
					break
				}
			}
			if err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("udp %s:%d: %v instead of port unreachable", a, port, err)
			}
			c.Close()
		}
	}
}

func (p *peer) client() *http.Client {
	return &http.Client{Timeout: patient, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			at := netip.MustParseAddrPort(address)
			return p.dial(at.Addr(), at.Port())
		},
	}}
}

func TestHealth(t *testing.T) {
	unready := errors.New("device natless0 is not there")
	var mu sync.Mutex
	state := unready
	p := run(t, Config{HealthPort: 8080, Ready: func() error { mu.Lock(); defer mu.Unlock(); return state }})
	get := func(a netip.Addr, path string) string {
		r, err := p.client().Get("http://" + netip.AddrPortFrom(a, 8080).String() + path)
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return fmt.Sprint(r.StatusCode, " ", string(body))
	}
	check := func(path, want string) {
		t.Helper()
		for _, a := range own {
			if got := get(a, path); got != want {
				t.Errorf("%s %s: %q, want %q", a, path, got, want)
			}
		}
	}
	check("/healthz", "200 ok\n")
	check("/readyz", "503 device natless0 is not there\n")
	mu.Lock()
	state = nil
	mu.Unlock()
	check("/readyz", "200 ready\n")
	check("/", "404 404 page not found\n")
}

// TestSlowClients: connections that say nothing end, and leave room for others.
func TestSlowClients(t *testing.T) {
	p := run(t, Config{HealthPort: 80})
	for range healthConnections + 20 {
		c, err := p.dial(own[1], 80)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("GET /healthz HTTP/1.1\r\nX: "))
	}
	r, err := p.client().Get("http://192.0.2.1/healthz")
	if err != nil {
		t.Fatalf("the other family: %v", err)
	}
	r.Body.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		r, err := p.client().Get("http://[2001:db8::1]/healthz")
		if err == nil {
			r.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestFlood: more than the stack can take is dropped and counted, without
// waiting, and the stack answers afterwards.
func TestFlood(t *testing.T) {
	p := run(t, Config{})
	junk := make([]byte, 1500)
	var worst time.Duration
	began := time.Now()
	const packets = 100_000
	for i := range packets {
		for j := range 24 {
			junk[j] = byte(i >> (j % 8) * 7)
		}
		junk[0] = []byte{0x45, 0x60, 0x46, 0xff, 0}[i%5]
		at := time.Now()
		p.local.Deliver(junk[:i%1500])
		worst = max(worst, time.Since(at))
	}
	took := time.Since(began)
	s := p.local.Stats()
	t.Logf("%d packets offered in %v (%v each, the worst %v): %d delivered, %d dropped", packets, took, took/packets, worst, s.Delivered, s.Dropped)
	if s.Dropped == 0 || s.Delivered+s.Dropped > packets || s.Panics != 0 {
		t.Errorf("%+v", s)
	}
	if rate := float64(s.Delivered) / took.Seconds(); rate > 1.5*burst/burstTime.Seconds() {
		t.Errorf("%.0f packets a second were processed", rate)
	}
	time.Sleep(20 * time.Millisecond)
	if err := p.ping(own[1], []byte("still there")); err != nil {
		t.Error(err)
	}
}

// FuzzDeliver: nothing that comes from the device makes the stack panic.
func FuzzDeliver(f *testing.F) {
	f.Add([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 198, 51, 100, 2, 192, 0, 2, 1, 8, 0, 0xf7, 0xff, 0, 0, 0, 0})
	s, err := New(Config{IPv4: own[0], IPv6: own[1], Write: func(*translator.Packet) error { return nil }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.close)
	f.Fuzz(func(t *testing.T, packet []byte) {
		s.inject(packet)
		s.link.Drain()
		if n := s.panics.Load(); n != 0 {
			t.Fatal("panic")
		}
	})
}

// TestDNS64 asks the stack's resolver over UDP and TCP.
func TestDNS64(t *testing.T) {
	upstream := dnsUpstream(t)
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: own[0], IPv6: own[1]}, table)
	if err != nil {
		t.Fatal(err)
	}
	p := run(t, Config{Translator: tr, DNS64: &dns64.Config{
		Upstreams: []netip.AddrPort{upstream}, Clients: []netip.Prefix{netip.MustParsePrefix("2001:db8:6::/64")},
	}})
	ask := func(network, name string) string {
		q := new(dns.Msg).SetQuestion(name, dns.TypeAAAA)
		var c net.Conn
		var err error
		if network == "tcp" {
			c, err = p.dial(own[1], 53)
		} else {
			c, err = p.DialContext(t.Context(), "udp", netip.AddrPortFrom(own[1], 53).String())
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		r, _, err := new(dns.Client).ExchangeWithConn(q, &dns.Conn{Conn: c})
		if err != nil {
			return err.Error()
		}
		out := dns.RcodeToString[r.Rcode]
		for _, rr := range r.Answer {
			out += " " + rr.(*dns.AAAA).AAAA.String()
		}
		return out
	}
	for _, network := range []string{"udp", "tcp"} {
		for name, want := range map[string]string{
			"global.test.": "NOERROR 64:ff9b::808:808", "private.test.": "NOERROR", "none.test.": "NXDOMAIN",
			"ipv4only.arpa.": "NOERROR 64:ff9b::c000:aa 64:ff9b::c000:ab",
		} {
			if got := ask(network, name); got != want {
				t.Errorf("%s %s: %s, want %s", network, name, got, want)
			}
		}
	}
	// The prefix is the one that the translator has now.
	if table, err = mapping.New(netip.MustParsePrefix("2001:db8:64::/96"), nil); err != nil {
		t.Fatal(err)
	}
	if err := tr.Reload(tr.Config(), table); err != nil {
		t.Fatal(err)
	}
	if got, want := ask("udp", "private.test."), "NOERROR 2001:db8:64::a00:1"; got != want {
		t.Errorf("after a reload: %s, want %s", got, want)
	}
	if c, err := p.dial(own[0], 53); err == nil {
		c.Close()
		t.Error("DNS64 listens on IPv4")
	}
}

// dnsUpstream is a server on loopback with two names.
func dnsUpstream(t testing.TB) netip.AddrPort {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(up) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		a := map[string]string{"global.test.": "8.8.8.8", "private.test.": "10.0.0.1"}[q.Question[0].Name]
		switch {
		case a == "":
			r.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 A " + a)
			r.Answer = []dns.RR{rr}
		}
		w.WriteMsg(r)
	})}
	go s.ActivateAndServe()
	<-up
	t.Cleanup(func() { s.Shutdown() })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}
