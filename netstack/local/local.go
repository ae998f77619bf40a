// Package local is the IP stack behind the translator's own addresses: a gVisor
// netstack that answers echo, refuses what nobody serves, and carries DNS64 and
// health checks, all apart from the host's own ports. Devices may not enter
// here: packets come by Deliver and leave by a function.
package local

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/budget/admit"
	"github.com/natless/natless/translator/mapping"
)

// How fast the stack takes packets from its queue.
const (
	burst     = 256                   // packets taken in one go …
	burstTime = 10 * time.Millisecond // … and at least this long for as many: no flood takes the machine's time
)

// Config is what a stack is made from.
type Config struct {
	IPv4, IPv6 netip.Addr             // the translator's own
	MTU        int                    // of the device; default 1500
	DNS64      *dns64.Config          // nil: no DNS64
	Translator *translator.Translator // tells senders apart, and gives DNS64 its prefix
	HealthPort uint16                 // 0: no health checks
	Ready      func() error           // what /readyz says; nil: always ready
	// Dial reaches DNS64's upstreams; nil: by the host's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Host knows the machine's own addresses, which may ask DNS64 besides the
	// translator's workloads; nil: none.
	Host func(netip.Addr) bool
	// Write takes a packet of the stack, with complete checksums, and keeps
	// nothing of it.
	Write func(*translator.Packet) error
	// Deliver takes a packet of the stack for a workload with IPv4 inside, as Write
	// takes others; nil: there is none.
	Deliver func(*translator.Packet, mapping.Tag) error
	Log     *slog.Logger // nil: slog.Default
}

// Stats counts since the start.
type Stats struct {
	Delivered, Dropped, Written, WriteErrors, Panics uint64
	HealthEvicted                                    uint64 // connections for health checks closed for others
	ErrorsLimited                                    uint64 // ICMP errors that their hearers' budgets forbade
}

// Stack is a task: Run it once.
type Stack struct {
	config   Config
	addr     [2]netip.Addr // IPv4, IPv6
	host     *host.Host
	link     *channel.Endpoint
	resolver *dns64.Server // nil: off
	ready    chan struct{}
	health   [2]atomic.Pointer[admit.Connections[translator.Sender]] // IPv4, IPv6; nil: off

	in       *queues
	room     chan struct{} // has an element when answers have been written
	errors   errorBudget
	fallback maphash.Seed // where there is no translator

	delivered, dropped, written, writeErrors, panics atomic.Uint64
}

// New makes a stack; Run has it answer.
func New(c Config) (*Stack, error) {
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Stack{
		config: c, addr: [2]netip.Addr{c.IPv4, c.IPv6},
		ready: make(chan struct{}), in: newQueues(), room: make(chan struct{}, 1), fallback: maphash.MakeSeed(),
	}
	s.link = channel.New(queuePackets, uint32(c.MTU), "")
	var err error
	if s.host, err = newHost(s.link, s.addr[:]); err != nil {
		return nil, fmt.Errorf("local stack: %w", err)
	}
	if c.DNS64 != nil {
		p := prefix{c.Translator}
		s.resolver = dns64.New(*c.DNS64, p, dns64.Options{Self: s.addr[:], Dial: c.Dial, Workload: p.workload, Host: c.Host, Log: c.Log})
	}
	return s, nil
}

// Ready is closed when all services listen.
func (s *Stack) Ready() <-chan struct{} { return s.ready }

// DNS64 is the resolver's server, or nil.
func (s *Stack) DNS64() *dns64.Server { return s.resolver }

// Stats is what was counted so far.
func (s *Stack) Stats() Stats {
	stats := Stats{
		Delivered: s.delivered.Load(), Dropped: s.dropped.Load(),
		Written: s.written.Load(), WriteErrors: s.writeErrors.Load(), Panics: s.panics.Load(),
		ErrorsLimited: s.errors.limited.Load(),
	}
	for i := range s.health {
		if c := s.health[i].Load(); c != nil {
			stats.HealthEvicted += c.Evicted()
		}
	}
	return stats
}

// Hold tells the stack that the host is overloaded, and how many packets a second nobody is to
// bring more than, where they are translated; one for the stack takes much longer. 0: it is not.
func (s *Stack) Hold(perSecond float64) { s.in.hold(perSecond) }

// Deliver gives the stack a copy of a packet with complete checksums, unless its
// sender has as many in the queue as it may have. It never waits, and may be
// called from any goroutine.
func (s *Stack) Deliver(packet []byte) bool {
	dropped, ok := s.in.put(packet, s.sender(packet))
	if dropped > 0 {
		s.dropped.Add(uint64(dropped))
	}
	return ok
}

// Run answers until ctx is done.
func (s *Stack) Run(ctx context.Context) error {
	defer s.close()
	services, err := s.listen()
	if err != nil {
		return fmt.Errorf("local stack: %w", err)
	}
	tasks, running := errgroup.WithContext(ctx)
	for _, serve := range append(services, s.receive, s.send) {
		tasks.Go(func() error { return serve(running) })
	}
	close(s.ready)
	if err := tasks.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("local stack: %w", err)
	}
	return nil
}

func (s *Stack) close() {
	s.host.Close()
	s.link.Close()
}

// receive hands what was delivered to the stack, at a bounded rate, and no faster
// than its answers are written: they have one queue, and what finds it full is lost,
// whoever filled it.
func (s *Stack) receive(ctx context.Context) error {
	for {
		began := time.Now()
		for taken := 0; taken < burst; {
			if s.link.NumQueued() >= queuePackets/2 { // the next may have more than one answer
				select {
				case <-ctx.Done():
					return nil
				case <-s.room:
				}
				continue
			}
			if b := s.in.get(); b != nil {
				s.inject(*b)
				s.in.done(b)
				taken++
				continue
			}
			select {
			case <-ctx.Done():
				return nil
			case <-s.in.wake:
			}
		}
		if rest := burstTime - time.Since(began); rest > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(rest):
			}
		}
	}
}

// inject runs the stack on one packet. A panic costs that packet alone.
func (s *Stack) inject(packet []byte) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Add(1)
			s.config.Log.Error("local stack: panic", "value", p, "stack", string(debug.Stack()))
		}
	}()
	s.delivered.Add(1)
	protocol := header.IPv4ProtocolNumber
	if len(packet) > 0 && packet[0]>>4 == 6 {
		protocol = header.IPv6ProtocolNumber
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer p.DecRef()
	s.link.InjectInbound(protocol, p)
}

// send writes what the stack has to say.
func (s *Stack) send(ctx context.Context) error {
	issue := s.write
	if s.config.Translator != nil {
		issue = newIssuer(s).issue
	}
	out := translator.Packet{Buf: make([]byte, translator.Headroom+s.config.MTU+translator.Tailroom)}
	for {
		p := s.link.ReadContext(ctx)
		if p == nil {
			return nil
		}
		out.Start, out.End, out.Offload = translator.Headroom, translator.Headroom, translator.Offload{}
		for _, part := range p.AsSlices() {
			out.End += copy(out.Buf[out.End:], part)
		}
		p.DecRef()
		if s.errors.allows(out.Bytes(), s.sender) {
			issue(&out)
		}
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
}

// newHost makes a host whose connections cost little memory.
func newHost(link stack.LinkEndpoint, addrs []netip.Addr) (*host.Host, error) {
	h, err := host.New(link, addrs...)
	if err != nil {
		return nil, err
	}
	if err := h.SetBuffers(4<<10, 32<<10, 64<<10); err != nil {
		h.Close()
		return nil, err
	}
	wait := tcpip.TCPTimeWaitTimeoutOption(5 * time.Second) // load balancers come often
	if err := h.SetTransportProtocolOption(tcp.ProtocolNumber, &wait); err != nil {
		h.Close()
		return nil, fmt.Errorf("TIME-WAIT: %s", err)
	}
	h.SetICMPLimit(rate.Inf) // one for everybody: errorBudget is for each
	return h, nil
}
