package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// bytesOf is where the bytes of a packet lie, from its IP header on.
type bytesOf struct {
	views buffer.ViewList
	skip  int
	size  int
}

// outgoing packets have had their headers pushed.
func outgoing(pkt *stack.PacketBuffer) bytesOf {
	views, skip := pkt.AsViewList()
	return bytesOf{views, skip, pkt.Size()}
}

// incoming packets may have had a link header consumed.
func incoming(pkt *stack.PacketBuffer) bytesOf {
	views, skip := pkt.AsViewList()
	return bytesOf{views, skip + pkt.HeaderSize(), pkt.Data().Size()}
}

// peek copies as much as fits into dst.
func (b *bytesOf) peek(dst []byte) (n int) {
	skip := b.skip
	for v := b.views.Front(); v != nil && n < len(dst); v = v.Next() {
		part := v.AsSlice()
		cut := min(skip, len(part))
		skip -= cut
		n += copy(dst[n:], part[cut:])
	}
	return n
}

// load makes a packet of the bytes, in a view of its own with room on both sides.
func (b *bytesOf) load() (*buffer.View, translator.Packet) {
	view := buffer.NewViewSize(translator.Headroom + b.size + translator.Tailroom)
	p := translator.Packet{Buf: view.AsSlice(), Start: translator.Headroom, End: translator.Headroom + b.size}
	b.peek(p.Bytes())
	return view, p
}

// translate adds to r what becomes of pkt, whose bytes b are.
func (e *endpoint) translate(x *path, b *bytesOf, pkt *stack.PacketBuffer, r *results) {
	view, p := b.load()
	if x == &e.out {
		e.describe(&p, pkt)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.moving = moving{p, view, pkt, *r} // a pointer would have r escape
	x.driver.Now()
	x.driver.Move(&x.packet)
	x.driver.Done()
	*r, x.results, x.view, x.was = x.results, results{}, nil, nil
}

// Send is the port's: a packet goes on, or back where it came from.
func (x *path) Send(p *translator.Packet, v translator.Verdict) {
	list := &x.on
	if v == translator.Hairpin || v.Replied() {
		list = &x.back
	}
	if p != &x.packet {
		list.PushBack(x.endpoint.wrap(nil, p, x.was))
		x.Buffers.Release(p)
		return
	}
	list.PushBack(x.endpoint.wrap(x.view, p, x.was))
	x.view = nil
}

// Deliver is the port's: who has IPv4 inside is behind the same link.
func (x *path) Deliver(p *translator.Packet, _ mapping.Tag, v translator.Verdict) { x.Send(p, v) }

// Local is the port's: the address is not ours, but that of a stack above.
func (x *path) Local(p *translator.Packet) { x.Send(p, translator.Local) }

// Release is the port's.
func (x *path) Release(p *translator.Packet) {
	if p != &x.packet {
		x.Buffers.Release(p)
	} else if x.view != nil {
		x.view.Release()
	}
}

// wrap makes a PacketBuffer of p, with what lower and the stack above want to
// know about it from the packet that it was.
func (e *endpoint) wrap(view *buffer.View, p *translator.Packet, was *stack.PacketBuffer) *stack.PacketBuffer {
	if view == nil {
		view = buffer.NewViewWithData(p.Bytes())
	} else {
		size := p.End - p.Start
		view.TrimFront(p.Start)
		view.CapLength(size)
	}
	protocol, l3 := header.IPv4ProtocolNumber, header.IPv4MinimumSize
	if view.AsSlice()[0]>>4 == 6 {
		protocol, l3 = header.IPv6ProtocolNumber, header.IPv6MinimumSize
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: e.headroom, Payload: buffer.MakeWithView(view),
	})
	pkt.NetworkProtocolNumber = protocol
	pkt.Hash, pkt.Owner, pkt.PktType = was.Hash, was.Owner, was.PktType
	pkt.EgressRoute = was.EgressRoute
	pkt.EgressRoute.NetProto = protocol
	pkt.RXChecksumValidated = was.RXChecksumValidated
	if p.Flags&translator.FlagNeedsCsum != 0 || p.GSOType != translator.GSONone {
		pkt.GSOOptions = was.GSOOptions
		pkt.GSOOptions.L3HdrLen = uint16(l3)
		switch pkt.GSOOptions.Type {
		case stack.GSOTCPv4, stack.GSOTCPv6:
			pkt.GSOOptions.Type = gsoType(protocol)
		}
	}
	return pkt
}

func gsoType(protocol tcpip.NetworkProtocolNumber) stack.GSOType {
	if protocol == header.IPv4ProtocolNumber {
		return stack.GSOTCPv4
	}
	return stack.GSOTCPv6
}

// describe tells of the offloads that an outgoing packet counts on.
func (e *endpoint) describe(p *translator.Packet, pkt *stack.PacketBuffer) {
	b := p.Bytes()
	gso := pkt.GSOOptions
	switch gso.Type {
	case stack.GSOTCPv4, stack.GSOTCPv6:
		if gso.NeedsCsum {
			p.Flags = translator.FlagNeedsCsum
			p.CsumStart, p.CsumOffset = gso.L3HdrLen, gso.CsumOffset
		}
		if payload := len(b) - int(gso.L3HdrLen) - len(pkt.TransportHeader().Slice()); payload > int(gso.MSS) {
			p.GSOSize, p.GSOType = gso.MSS, translator.GSOTCPv4
			if gso.Type == stack.GSOTCPv6 {
				p.GSOType = translator.GSOTCPv6
			}
		}
	default:
		if e.offloads {
			leaveToLower(p)
		}
	}
}

// leaveToLower puts the sum of the pseudo header into the checksum field of a
// TCP or UDP packet, which the stack above left empty for lower to fill in.
func leaveToLower(p *translator.Packet) {
	b := p.Bytes()
	var proto, l3 int
	var addresses []byte
	switch {
	case b[0]>>4 == 4 && len(b) >= header.IPv4MinimumSize && !isFragment4(b):
		proto, l3, addresses = int(b[9]), int(b[0]&15)*4, b[12:20]
	case b[0]>>4 == 6 && len(b) >= header.IPv6MinimumSize:
		proto, l3, addresses = int(b[6]), header.IPv6MinimumSize, b[8:40]
	}
	var offset int
	switch tcpip.TransportProtocolNumber(proto) {
	case header.TCPProtocolNumber:
		offset = header.TCPChecksumOffset
	case header.UDPProtocolNumber:
		offset = udpChecksumOffset
	default:
		return
	}
	if len(b) < l3+offset+2 {
		return
	}
	sum := uint32(proto + len(b) - l3)
	for i := 0; i < len(addresses); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(addresses[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[l3+offset:], uint16(sum))
	p.Flags = translator.FlagNeedsCsum
	p.CsumStart, p.CsumOffset = uint16(l3), uint16(offset)
}

const udpChecksumOffset = 6

// isFragment4 says that b is an IPv4 fragment.
func isFragment4(b []byte) bool {
	return b[0]>>4 == 4 && len(b) >= header.IPv4MinimumSize && binary.BigEndian.Uint16(b[6:])&0x3fff != 0
}
