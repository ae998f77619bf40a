// Package netstack gives programs that embed gVisor a translating link. The
// folders below it are where packets come from and go to in the daemon. The
// rules of translation may not enter here, nor anything that only Linux has.
package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// Translate makes a link endpoint that translates, with t, what passes between
// the stack above it and lower, in both directions. Everything that t's table
// does not cover passes as it is, native IPv6 beside the prefix for one.
//
// If t's configuration says Client, the stack above speaks IPv4 and lower is an
// IPv6-only link: IPv4 packets from a mapped address leave as IPv6 (RFC 6877).
// If not, the stack above is the workload, or many of them, and speaks IPv6:
// packets to the prefix leave as IPv4.
//
// The endpoint's MTU is 28 less than lower's (Client), or the same. In t's
// configuration MTU6 should be lower's MTU and MTU4 20 less (Client), or MTU4
// lower's and MTU6 28 more. Offloads of lower stay in use. lower must not need
// address resolution: a neighbour's link address in one family does not answer
// for the other.
//
// The endpoint may be used by any number of goroutines.
func Translate(lower stack.LinkEndpoint, t *translator.Translator) stack.LinkEndpoint {
	e := &endpoint{
		lower: lower, t: t, client: t.Config().Client,
		headroom: int(lower.MaxHeaderLength()),
		offloads: lower.Capabilities()&stack.CapabilityTXChecksumOffload != 0,
	}
	for _, x := range []*path{&e.out, &e.in} {
		x.endpoint, x.driver = e, dataplane.NewDriver(t.NewWorker(), x, nil)
	}
	e.Endpoint.Init(lower, e)
	return e
}

// growth is how much longer IPv4 packets become as IPv6: fragments by another
// header, which gVisor sends with DF=1, so that they must not be cut again.
const growth = header.IPv6MinimumSize - header.IPv4MinimumSize + header.IPv6FragmentHeaderSize

type endpoint struct {
	nested.Endpoint
	lower    stack.LinkEndpoint
	t        *translator.Translator
	client   bool
	headroom int  // bytes that lower wants in front of a packet
	offloads bool // lower makes upper-layer checksums

	out, in path
}

// path is one direction, and the port of its driver.
type path struct {
	endpoint *endpoint

	mu     sync.Mutex // guards what follows
	driver *dataplane.Driver
	tun.Buffers
	moving
}

// moving is the packet that is under way.
type moving struct {
	packet  translator.Packet
	view    *buffer.View        // its buffer
	was     *stack.PacketBuffer // what it came as
	results                     // what becomes of it and of those before
}

// MTU is that of the link as the stack above sees it.
func (e *endpoint) MTU() uint32 {
	if e.client {
		return e.lower.MTU() - growth
	}
	return max(e.lower.MTU(), header.IPv6MinimumMTU)
}

// SetMTU sets it, and lower's with it.
func (e *endpoint) SetMTU(mtu uint32) {
	if e.client {
		mtu += growth
	}
	e.lower.SetMTU(mtu)
}

// SupportedGSO is lower's, or else gVisor's own, which asks nothing of lower: the
// stack above then writes many packets at once, which saves it more than
// translation costs.
func (e *endpoint) SupportedGSO() stack.SupportedGSO {
	if kind := e.Endpoint.SupportedGSO(); kind != stack.GSONotSupported {
		return kind
	}
	return stack.GVisorGSOSupported
}

// GSOMaxSize belongs to SupportedGSO.
func (e *endpoint) GSOMaxSize() uint32 {
	if e.Endpoint.SupportedGSO() != stack.GSONotSupported {
		return e.Endpoint.GSOMaxSize()
	}
	return stack.GVisorGSOMaxSize
}

// AddHeader waits until the packet is what lower will see.
func (e *endpoint) AddHeader(*stack.PacketBuffer) {}

// WritePackets takes packets of the stack above, whose references stay its own.
func (e *endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	var r results
	defer r.release()
	for _, pkt := range pkts.AsSlice() {
		b := outgoing(pkt)
		if !e.covers(&b, pkt.NetworkProtocolNumber, true) {
			r.on.PushBack(pkt.IncRef())
			continue
		}
		e.translate(&e.out, &b, pkt, &r)
	}
	for _, pkt := range r.on.AsSlice() {
		e.lower.AddHeader(pkt)
	}
	_, err := e.lower.WritePackets(r.on)
	for _, pkt := range r.back.AsSlice() {
		e.Endpoint.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
	}
	if err != nil {
		return 0, err
	}
	return pkts.Len(), nil
}

// DeliverNetworkPacket takes a packet of lower, whose reference stays its own.
func (e *endpoint) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	b := incoming(pkt)
	if !e.covers(&b, protocol, false) {
		e.Endpoint.DeliverNetworkPacket(protocol, pkt)
		return
	}
	var r results
	defer r.release()
	e.translate(&e.in, &b, pkt, &r)
	for _, p := range r.on.AsSlice() {
		e.Endpoint.DeliverNetworkPacket(p.NetworkProtocolNumber, p)
	}
	if r.back.Len() > 0 {
		for _, p := range r.back.AsSlice() {
			e.lower.AddHeader(p)
		}
		e.lower.WritePackets(r.back) // lost, as answers may be, when lower does not take them
	}
}

// results is what becomes of packets. It holds a reference to each.
type results struct {
	on   stack.PacketBufferList // goes on
	back stack.PacketBufferList // goes back where the packet came from
}

func (r *results) release() {
	r.on.DecRef()
	r.back.DecRef()
}
