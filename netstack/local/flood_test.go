package local

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// crafted is an IPv4 packet to the stack with an upper layer whose checksum is at
// an offset, 0 for none.
func crafted(src netip.Addr, proto tcpip.TransportProtocolNumber, l4 []byte, sum int) []byte {
	b := make([]byte, header.IPv4MinimumSize+len(l4))
	ip := header.IPv4(b)
	s, d := tcpip.AddrFrom4(src.As4()), tcpip.AddrFrom4(own[0].As4())
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(proto), SrcAddr: s, DstAddr: d})
	ip.SetChecksum(^ip.CalculateChecksum())
	copy(b[header.IPv4MinimumSize:], l4)
	if sum > 0 {
		x := header.PseudoHeaderChecksum(proto, s, d, uint16(len(l4)))
		binary.BigEndian.PutUint16(b[header.IPv4MinimumSize+sum:], ^checksum.Checksum(b[header.IPv4MinimumSize:], x))
	}
	return b
}

func syn(src netip.Addr, sport, dport uint16) []byte {
	l4 := make([]byte, header.TCPMinimumSize)
	header.TCP(l4).Encode(&header.TCPFields{SrcPort: sport, DstPort: dport, SeqNum: 77, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	return crafted(src, header.TCPProtocolNumber, l4, 16)
}

func datagram(src netip.Addr, sport, dport uint16) []byte {
	l4 := make([]byte, header.UDPMinimumSize+8)
	header.UDP(l4).Encode(&header.UDPFields{SrcPort: sport, DstPort: dport, Length: uint16(len(l4))})
	return crafted(src, header.UDPProtocolNumber, l4, 6)
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}) }

// newServed runs a stack with all its services.
func newServed(t *testing.T) *peer {
	t.Helper()
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := translator.New(translator.Config{IPv4: own[0], IPv6: own[1]}, table)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, Config{HealthPort: 80, Translator: tr, DNS64: &dns64.Config{Upstreams: []netip.AddrPort{dnsUpstream(t)}}})
}

// TestAnswersWait: while nothing that the stack says can be written, it answers no
// more than it has room for, and afterwards all the rest.
func TestAnswersWait(t *testing.T) {
	held := make(chan struct{})
	s, err := New(Config{IPv4: own[0], IPv6: own[1], Write: func(*translator.Packet) error { <-held; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	const sent = 2 * queuePackets
	for i := range sent {
		s.Deliver(crafted(address(i), 1, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0))
		if i%32 == 0 {
			time.Sleep(burstTime)
		}
	}
	close(held)
	for end := time.Now().Add(patient); s.Stats().Written+s.Stats().Dropped < sent; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("of %d packets, after %v: %+v", sent, patient, s.Stats())
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := s.Stats(); n.Written != n.Delivered || n.Delivered <= queuePackets {
		t.Errorf("answers got lost: %+v", n)
	}
}

// TestFloodsLeaveOthers: while one host floods the stack as fast as it can, or
// ten thousand that are none pretend to open connections, another pings, checks
// health and asks DNS64 over TCP and UDP, each time.
func TestFloodsLeaveOthers(t *testing.T) {
	for name, packet := range map[string]func(i int) []byte{
		"SYN to health":    func(i int) []byte { return syn(address(1), uint16(i), 80) },
		"SYN to nobody":    func(i int) []byte { return syn(address(1), uint16(i), 81) },
		"UDP to nobody":    func(i int) []byte { return datagram(address(1), uint16(i), 999) },
		"echo":             func(i int) []byte { return crafted(address(1), 1, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0) },
		"fragments":        func(i int) []byte { return fragmentOf(datagram(address(1), 1, 80), i) },
		"SYN from no host": func(i int) []byte { return syn(address(i%10_000), uint16(i), 80) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newServed(t)
			for p.laneShared(packet(0)) {
				p = newServed(t) // by a chance of one in 500
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			pace := 200 // several times as many as the stack takes
			if name == "SYN from no host" {
				pace = 10 // of which it can take all
			}
			stop := make(chan struct{})
			var flood sync.WaitGroup
			flood.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					p.local.Deliver(packet(i))
					if i%pace == pace-1 {
						time.Sleep(time.Millisecond)
					}
				}
			})
			t.Cleanup(func() { close(stop); flood.Wait() })
			time.Sleep(50 * time.Millisecond)
			worst := time.Duration(0)
			for range 5 {
				began := time.Now()
				p.served(t)
				worst = max(worst, time.Since(began))
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			s := p.local.Stats()
			t.Logf("ping, health and DNS64 within %v; heap %d → %d kB; %+v", worst, before.HeapAlloc>>10, after.HeapAlloc>>10, s)
			if n := p.lost.Load(); n > 0 && pace == 200 {
				t.Errorf("%d packets of another were not taken", n)
			}
			if pace == 200 && s.Dropped == 0 {
				t.Error("that was no flood")
			}
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
				t.Errorf("the heap grew by %d bytes", grown)
			}
		})
	}
}

func fragmentOf(packet []byte, i int) []byte {
	ip := header.IPv4(packet)
	ip.SetID(uint16(i))
	ip.SetFlagsFragmentOffset(header.IPv4FlagMoreFragments, 0)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return packet
}

// laneShared reports whether a flood would share the peer's lane to the stack.
func (p *peer) laneShared(flood []byte) bool {
	for _, a := range p.addrs {
		peer, other := p.local.config.Translator.SenderAt(netip.AddrPortFrom(a, 1)), p.local.sender(flood)
		if peer.Workload == other.Workload && peer.Hash%lanes == other.Hash%lanes {
			return true
		}
	}
	return false
}

// served uses every service once.
func (p *peer) served(t *testing.T) {
	t.Helper()
	for _, a := range own {
		if err := p.ping(a, []byte("x")); err != nil {
			t.Error(err)
		}
		p.healthy(t, a)
	}
	for _, network := range []string{"tcp", "udp"} {
		c, err := p.DialContext(t.Context(), network, netip.AddrPortFrom(own[1], 53).String())
		if err != nil {
			t.Error(err)
			continue
		}
		c.SetDeadline(time.Now().Add(patient))
		if _, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("global.test.", dns.TypeAAAA), &dns.Conn{Conn: c}); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		c.Close()
	}
}

func (p *peer) healthy(t *testing.T, a netip.Addr) {
	t.Helper()
	var r *http.Response
	var err error
	for range 3 {
		began := time.Now()
		r, err = p.client().Get(fmt.Sprintf("http://%s/readyz", netip.AddrPortFrom(a, 80)))
		if err == nil || time.Since(began) < readTime {
			break
		} // on a busy machine the request comes later than the server waits for it
	}
	if err != nil {
		t.Error(err)
		return
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil || string(body) != "ready\n" {
		t.Errorf("health of %s: %q, %v", a, body, err)
	}
}

// TestIdleConnectionsLeaveOthers: connections that say nothing, send letters or
// read nothing are closed for who comes, and cost little memory.
func TestIdleConnectionsLeaveOthers(t *testing.T) {
	p := newServed(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for i := range 2 * healthConnections {
		for _, a := range own {
			c, err := p.dial(a, 80)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			io.WriteString(c, []string{"", "GET /hea", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /healthz HTTP/1.1\r\nX: "}[i%4])
		}
	}
	took := time.Since(began)
	p.served(t)
	runtime.GC()
	runtime.ReadMemStats(&after)
	s := p.local.Stats()
	t.Logf("heap %d → %d kB; %+v", before.HeapAlloc>>10, after.HeapAlloc>>10, s)
	if took < time.Second && s.HealthEvicted < 2*healthConnections { // or else some of them timed out
		t.Errorf("%d connections were closed for others", s.HealthEvicted)
	}
}

// TestErrorsOfTheStack: port unreachable comes to each at its own rate.
func TestErrorsOfTheStack(t *testing.T) {
	p := newServed(t)
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				p.local.Deliver(datagram(address(1), uint16(i), 999))
				time.Sleep(100 * time.Microsecond)
			}
		}
	})
	t.Cleanup(func() { close(stop); flood.Wait() })
	for deadline := time.Now().Add(patient); p.local.Stats().ErrorsLimited < 200; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no error is held back")
		}
	}
	for range 10 {
		c, err := p.DialContext(t.Context(), "udp", netip.AddrPortFrom(own[0], 998).String())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("x"))
		for range 20 { // gVisor tells of the error when asked to read, not a reader that waits
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err = c.Read(make([]byte, 1)); !isTimeout(err) {
				break
			}
		}
		if isTimeout(err) {
			t.Error("another hears of no error")
		}
		c.Close()
	}
}

// TestErrorsOfStrangersAndWorkloads: errors to any number of strangers leave those
// to workloads.
func TestErrorsOfStrangersAndWorkloads(t *testing.T) {
	t.Parallel()
	var e errorBudget
	packet := make([]byte, header.IPv6MinimumSize+header.ICMPv6MinimumSize+40)
	packet[0], packet[6], packet[40] = 6<<4, uint8(header.ICMPv6ProtocolNumber), uint8(header.ICMPv6DstUnreachable)
	for range 50 * errorsOfAll.Burst { // which is all of all shares, too
		e.allows(packet, func([]byte) translator.Sender { return translator.Sender{Hash: rand.Uint64()} })
	}
	if e.limited.Load() == 0 {
		t.Fatal("that was no flood")
	}
	for i := range 30 {
		if !e.allows(packet, func([]byte) translator.Sender { return translator.Sender{Hash: 1 << 40, Workload: true} }) {
			t.Errorf("error %d to a workload was refused", i)
		}
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}
