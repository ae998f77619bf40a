// Package demo shows natless at work in one process, without privileges: an
// IPv6-only side, the translator and its local stack, and an IPv4-only side,
// all of gVisor hosts, and what people would want to see of it. Only what is
// there to be looked at may enter; what it shows must be the product's own code.
package demo

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// The addresses of the network (RFC 5737, RFC 3849).
var (
	prefix   = netip.MustParsePrefix("2001:db8:64::/96")
	own4     = netip.MustParseAddr("192.0.2.254") // the translator's own
	own6     = netip.MustParseAddr("2001:db8::1")
	router4  = netip.MustParseAddr("192.0.2.1") // the container host itself
	server4  = netip.MustParseAddr("192.0.2.80")
	shared   = netip.MustParsePrefix("198.51.100.7/32")
	shop6    = netip.MustParseAddr("2001:db8:6::a")
	blog6    = netip.MustParseAddr("2001:db8:6::b")
	till6    = netip.MustParseAddr("2001:db8:6::c")
	nameserv = netip.AddrPortFrom(server4, 53)
)

const mtu = 1500

// network carries packets between hosts, each on a link of its own, and through
// the translator where the families differ.
type network struct {
	translator *translator.Translator
	local      *local.Stack
	links      map[netip.Addr]*channel.Endpoint
	hosts      []*host.Host
	trace      trace

	mu     sync.Mutex // guards what follows
	driver *dataplane.Driver
	tun.Buffers
}

func newNetwork() (*network, error) {
	table, err := mapping.New(prefix, nil)
	if err != nil {
		return nil, err
	}
	n := &network{links: map[netip.Addr]*channel.Endpoint{}}
	n.translator, err = translator.New(translator.Config{IPv4: own4, IPv6: own6, LowestMTU6: mtu}, table)
	if err != nil {
		return nil, err
	}
	n.driver = dataplane.NewDriver(n.translator.NewWorker(), n, &n.trace)
	router, err := n.add(router4)
	if err != nil {
		return nil, err
	}
	n.local, err = local.New(local.Config{
		IPv4: own4, IPv6: own6, Translator: n.translator, Log: slog.New(slog.DiscardHandler),
		DNS64: &dns64.Config{Upstreams: []netip.AddrPort{nameserv}}, Dial: router.DialContext,
		Write:   func(p *translator.Packet) error { n.forward(p.Bytes(), netip.Addr{}); return nil },
		Deliver: func(p *translator.Packet, to mapping.Tag) error { n.give(p.Bytes(), to); return nil },
	})
	return n, err
}

// add makes a host with one address.
func (n *network) add(a netip.Addr) (*host.Host, error) { return n.addAt(a, a) }

// addAt makes a host with an address on the link of another: that of a workload is its
// IPv6 address, also where its programs have IPv4.
func (n *network) addAt(at, a netip.Addr) (*host.Host, error) {
	link := channel.New(4096, mtu, "")
	h, err := host.New(link, a)
	if err != nil {
		return nil, err
	}
	n.links[at] = link
	n.hosts = append(n.hosts, h)
	return h, nil
}

// run carries packets until ctx is done, then ends the hosts. All hosts must
// have been added.
func (n *network) run(ctx context.Context) error {
	tasks, ctx := errgroup.WithContext(ctx)
	for at, link := range n.links {
		tasks.Go(func() error {
			for p := link.ReadContext(ctx); p != nil; p = link.ReadContext(ctx) {
				v := p.ToView()
				p.DecRef()
				n.forward(v.AsSlice(), at)
				v.Release()
			}
			return nil
		})
	}
	tasks.Go(func() error { return n.local.Run(ctx) })
	err := tasks.Wait()
	for _, h := range n.hosts {
		h.Close()
	}
	for _, l := range n.links {
		l.Close()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// forward is a router that has the translator for a default route, and for all IPv4 of
// a workload that has it inside: what comes from its link says whose it is.
func (n *network) forward(packet []byte, link netip.Addr) {
	var from mapping.Tag
	if packet[0]>>4 == 4 && link.Is6() {
		if e := n.translator.Table().Lookup6(mapping.Addr6From(link)); e != nil && e.Inside() {
			from = e.Tag()
		}
	}
	if from == 0 && n.deliver(packet) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.Buffer()
	p.End = p.Start + copy(p.Buf[p.Start:], packet)
	n.driver.Now()
	if from != 0 {
		n.driver.Pass(p, from)
	} else {
		n.driver.Move(p)
	}
}

// Deliver is the driver's, for who has IPv4 inside.
func (n *network) Deliver(p *translator.Packet, to mapping.Tag, _ translator.Verdict) {
	n.give(p.Bytes(), to)
	n.Release(p)
}

// give hands IPv4 to the workload that a tag names.
func (n *network) give(packet []byte, to mapping.Tag) {
	if e := n.translator.Table().Tagged(to); e != nil {
		inject(n.links[e.Mapping().IPv6.Addr()], header.IPv4ProtocolNumber, packet)
	}
}

// Send is the driver's.
func (n *network) Send(p *translator.Packet, _ translator.Verdict) {
	n.deliver(p.Bytes())
	n.Release(p)
}

// Local is the driver's.
func (n *network) Local(p *translator.Packet) {
	n.local.Deliver(p.Bytes())
	n.Release(p)
}

// deliver hands a packet to the host that has its destination, if there is one.
func (n *network) deliver(packet []byte) bool {
	protocol, to := header.IPv4ProtocolNumber, netip.Addr{}
	if packet[0]>>4 == 6 {
		protocol, to = header.IPv6ProtocolNumber, netip.AddrFrom16([16]byte(packet[24:40]))
	} else {
		to = netip.AddrFrom4([4]byte(packet[16:20]))
	}
	link := n.links[to]
	if link == nil {
		return false
	}
	inject(link, protocol, packet)
	return true
}

func inject(link *channel.Endpoint, protocol tcpip.NetworkProtocolNumber, packet []byte) {
	in := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	link.InjectInbound(protocol, in)
	in.DecRef()
}

// resolver asks the translator's DNS64, the only one that a workload knows.
func resolver(h *host.Host) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.DialContext(ctx, network[:3], netip.AddrPortFrom(own6, 53).String())
	}}
}
