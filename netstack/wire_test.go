package netstack

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// wire joins two channel endpoints like a router would, that loses, reorders,
// and tells whoever sends too long a packet.
type wire struct {
	ends    [2]*channel.Endpoint
	loss    float64 // of all packets
	reorder float64 // share that arrives some packets later
	mtu     atomic.Int32
	lost    atomic.Int64
	late    atomic.Int64
	tooBig  atomic.Int64
	tap     func(from int, packet []byte) // sees all that is sent
}

const routerAddr4, routerAddr6 = "\xc0\x00\x02\xfe", "\x20\x01\x0d\xb8\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe"

func newWire(t testing.TB, mtu int, loss, reorder float64) *wire {
	w := &wire{loss: loss, reorder: reorder}
	w.mtu.Store(int32(mtu))
	for i := range w.ends {
		w.ends[i] = channel.New(4096, uint32(mtu), "")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range w.ends {
		running.Go(func() { w.carry(ctx, i) })
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, e := range w.ends {
			e.Close()
		}
	})
	return w
}

func (w *wire) carry(ctx context.Context, from int) {
	rng := rand.New(rand.NewPCG(uint64(from), 7))
	var held []*stack.PacketBuffer
	defer func() {
		for _, p := range held {
			p.DecRef()
		}
	}()
	for {
		wait := ctx
		cancel := func() {}
		if len(held) > 0 { // late, not lost
			wait, cancel = context.WithTimeout(ctx, 5*time.Millisecond)
		}
		p := w.ends[from].ReadContext(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			if p != nil {
				p.DecRef()
			}
			return
		case p == nil:
		case w.tap != nil:
			v := p.ToView()
			w.tap(from, v.AsSlice())
			v.Release()
		}
		switch {
		case p == nil:
		case p.Size() > int(w.mtu.Load()):
			w.complain(from, p)
			p.DecRef()
			p = nil
		case rng.Float64() < w.loss:
			w.lost.Add(1)
			p.DecRef()
			p = nil
		case rng.Float64() < w.reorder && len(held) < 3:
			w.late.Add(1)
			held = append(held, p)
			continue
		}
		if p != nil {
			w.deliver(1-from, p)
		}
		if p == nil || rng.IntN(3) == 0 {
			for _, p := range held {
				w.deliver(1-from, p)
			}
			held = held[:0]
		}
	}
}

// deliver uses p up.
func (w *wire) deliver(to int, p *stack.PacketBuffer) {
	v := p.ToView()
	p.DecRef()
	w.inject(to, v)
}

func (w *wire) inject(to int, v *buffer.View) { inject(w.ends[to], v) }

// complain answers a packet that is too long as a router would.
func (w *wire) complain(from int, p *stack.PacketBuffer) {
	w.tooBig.Add(1)
	v := p.ToView()
	defer v.Release()
	b := v.AsSlice()
	mtu := uint32(w.mtu.Load())
	if b[0]>>4 == 4 {
		quote := b[:min(len(b), 548)]
		out := buffer.NewViewSize(header.IPv4MinimumSize + header.ICMPv4MinimumSize + len(quote))
		ip := header.IPv4(out.AsSlice())
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(out.Size()), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: tcpip.AddrFrom4Slice([]byte(routerAddr4)), DstAddr: header.IPv4(b).SourceAddress(),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		m := header.ICMPv4(ip.Payload())
		m.SetType(header.ICMPv4DstUnreachable)
		m.SetCode(header.ICMPv4FragmentationNeeded)
		m.SetMTU(uint16(mtu))
		copy(m.Payload(), quote)
		m.SetChecksum(header.ICMPv4Checksum(m, 0))
		w.inject(from, out)
		return
	}
	quote := b[:min(len(b), 1232)]
	out := buffer.NewViewSize(header.IPv6MinimumSize + header.ICMPv6MinimumSize + len(quote))
	ip := header.IPv6(out.AsSlice())
	src, dst := tcpip.AddrFrom16Slice([]byte(routerAddr6)), header.IPv6(b).SourceAddress()
	ip.Encode(&header.IPv6Fields{
		PayloadLength: uint16(out.Size() - header.IPv6MinimumSize), TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit: 64, SrcAddr: src, DstAddr: dst,
	})
	m := header.ICMPv6(ip.Payload())
	m.SetType(header.ICMPv6PacketTooBig)
	m.SetMTU(mtu)
	copy(m[header.ICMPv6MinimumSize:], quote)
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: src, Dst: dst}))
	w.inject(from, out)
}
