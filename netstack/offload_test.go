package netstack

import (
	"context"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// card is a link that segments TCP and makes checksums, as network cards do,
// by what PacketBuffers say: if that is wrong in any way, the host beyond, which
// verifies all checksums, hears nothing.
type card struct {
	*channel.Endpoint
	far                      *channel.Endpoint
	superpackets, unfinished int
}

func newCard(t *testing.T, mtu uint32, gso stack.SupportedGSO) *card {
	c := &card{Endpoint: channel.New(4096, mtu, ""), far: channel.New(4096, mtu, "")}
	c.LinkEPCapabilities = stack.CapabilityTXChecksumOffload
	c.SupportedGSOKind = gso
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.send(ctx) })
	running.Go(func() {
		for p := c.far.ReadContext(ctx); p != nil; p = c.far.ReadContext(ctx) {
			v := p.ToView()
			p.DecRef()
			inject(c.Endpoint, v)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		c.Endpoint.Close()
		c.far.Close()
	})
	return c
}

func (c *card) send(ctx context.Context) {
	for pkt := c.ReadContext(ctx); pkt != nil; pkt = c.ReadContext(ctx) {
		v := pkt.ToView()
		p := translator.Packet{Buf: v.AsSlice(), End: v.Size()}
		gso := pkt.GSOOptions
		if gso.NeedsCsum {
			c.unfinished++
			p.Flags, p.CsumStart, p.CsumOffset = translator.FlagNeedsCsum, gso.L3HdrLen, gso.CsumOffset
		} else {
			leaveToLower(&p) // of CapabilityTXChecksumOffload alone, the card knows TCP and UDP itself
		}
		switch gso.Type {
		case stack.GSOTCPv4:
			p.GSOType = translator.GSOTCPv4
		case stack.GSOTCPv6:
			p.GSOType = translator.GSOTCPv6
		}
		var s tun.Segmenter
		if p.GSOSize = gso.MSS; p.GSOType != 0 && p.End > int(c.MTU()) && s.Reset(&p) == nil {
			c.superpackets++
			for q := (translator.Packet{Buf: make([]byte, c.MTU())}); s.Next(&q); {
				inject(c.far, buffer.NewViewWithData(q.Bytes()))
			}
			v.Release()
		} else {
			p.GSOType = translator.GSONone
			tun.CompleteChecksum(&p)
			inject(c.far, v)
		}
		pkt.DecRef()
	}
}

// inject uses v up.
func inject(to *channel.Endpoint, v *buffer.View) {
	protocol := header.IPv4ProtocolNumber
	if v.AsSlice()[0]>>4 == 6 {
		protocol = header.IPv6ProtocolNumber
	}
	in := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	to.InjectInbound(protocol, in)
	in.DecRef()
}

// TestOffloads: superpackets and unfinished checksums pass through translation
// to a link that takes them.
func TestOffloads(t *testing.T) {
	for _, gso := range []stack.SupportedGSO{stack.HostGSOSupported, stack.GSONotSupported} {
		eachSide(t, func(t *testing.T, s side) {
			config := translator.Config{Client: s.client, MTU4: 1500, MTU6: 1500 + growth, LowestMTU6: 1500 + growth}
			c := newCard(t, 1500, gso)
			here := newHost(t, Translate(c, newTranslator(t, config)), s.here...)
			there := newHost(t, c.far, s.there...)
			client, server := connect(t, here, there, s.to, s.there[0])
			if err := send(client, server, 20<<20, nil); err != nil {
				t.Fatal("from here:", err)
			}
			if err := send(server, client, 1<<20, nil); err != nil {
				t.Fatal("from there:", err)
			}
			ping(t, here, s)
			t.Logf("%d superpackets, %d unfinished checksums", c.superpackets, c.unfinished)
			if gso == stack.HostGSOSupported && (c.superpackets == 0 || c.unfinished == 0) {
				t.Error("no offload was used")
			}
		})
	}
}

func ping(t *testing.T, here *host.Host, s side) {
	t.Helper()
	if _, err := here.Ping(t.Context(), s.to, 0, []byte("natless")); err != nil {
		t.Error(err)
	}
}
