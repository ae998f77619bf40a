package netstack

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/translator"
)

// BenchmarkThroughput moves a TCP stream there and back between two gVisor
// hosts, over a bare link in either family and through the endpoint in turn, and
// reports the median of the ratios: 1 is as fast as without. Since the hosts
// speak IPv4 at one end and IPv6 at the other, "without" is the mean of both.
func BenchmarkThroughput(b *testing.B) {
	refs.SetLeakMode(refs.NoLeakChecking)
	defer refs.SetLeakMode(refs.LeaksPanic)
	const half = 4 << 20
	for _, s := range sides {
		b.Run(s.name, func(b *testing.B) {
			streams := []*stream{newStream(b, nil, workload4, server4), newStream(b, nil, workload6, server46), newStream(b, &s, s.here[0], s.there[0])}
			var speeds, ratios, processor []float64
			for b.Loop() {
				var took, cpu [3]float64
				for k := range streams {
					i := (k + len(ratios)) % len(streams) // who goes first matters
					before := processorTime()
					took[i] = streams[i].move(b, half).Seconds()
					cpu[i] = (processorTime() - before).Seconds()
				}
				speeds = append(speeds, 2*half/took[2]/1e6)
				ratios = append(ratios, (took[0]+took[1])/2/took[2])
				processor = append(processor, (cpu[0]+cpu[1])/2/cpu[2])
			}
			b.ReportMetric(0, "ns/op") // of all three together, which says nothing
			b.ReportMetric(median(speeds), "MB/s")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(processor), "CPU-ratio") // steadier where the machine has other work
		})
	}
}

// stream is one TCP connection between two hosts.
type stream struct{ one, two net.Conn }

// newStream joins two hosts by a pipe, with the translator at the first one's end
// where wrapped says which side it is.
func newStream(b *testing.B, wrapped *side, here, there netip.Addr) *stream {
	one, two := pipe.New("", "", 1500)
	var lower stack.LinkEndpoint = one
	dial := there
	if wrapped != nil {
		c := translator.Config{Client: wrapped.client, MTU4: 1500, MTU6: 1500 + growth, LowestMTU6: 1500 + growth}
		lower = Translate(one, newTranslator(b, c))
		dial = wrapped.to
	}
	a, err := host.New(lower, here)
	if err != nil {
		b.Fatal(err)
	}
	z, err := host.New(two, there)
	if err != nil {
		b.Fatal(err)
	}
	ln, err := z.ListenTCP(netip.AddrPortFrom(there, 5001))
	if err != nil {
		b.Fatal(err)
	}
	conn, err := a.DialContext(b.Context(), "tcp", netip.AddrPortFrom(dial, 5001).String())
	if err != nil {
		b.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		conn.Close()
		peer.Close()
		ln.Close()
		a.Close()
		z.Close()
	})
	return &stream{conn, peer}
}

// move sends n bytes one way, then as many the other.
func (s *stream) move(b *testing.B, n int64) time.Duration {
	began := time.Now()
	for _, way := range [][2]net.Conn{{s.one, s.two}, {s.two, s.one}} {
		go func() {
			buf := make([]byte, 256<<10)
			for sent := int64(0); sent < n; {
				k, err := way[0].Write(buf[:min(int64(len(buf)), n-sent)])
				if err != nil {
					b.Error(err)
					return
				}
				sent += int64(k)
			}
		}()
		if _, err := io.CopyN(io.Discard, way[1], n); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPacket is the endpoint's own part: one packet of 1,500 bytes out.
func BenchmarkPacket(b *testing.B) {
	refs.SetLeakMode(refs.NoLeakChecking)
	defer refs.SetLeakMode(refs.LeaksPanic)
	e := Translate(sink{channel.New(1, 1500, "")}, newTranslator(b, translator.Config{}))
	packet := make([]byte, 1500)
	ip := header.IPv6(packet)
	ip.Encode(&header.IPv6Fields{
		PayloadLength: 1460, TransportProtocol: header.TCPProtocolNumber, HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16(workload6.As16()), DstAddr: tcpip.AddrFrom16(server46.As16()),
	})
	header.TCP(ip.Payload()).Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, DataOffset: header.TCPMinimumSize})
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	var list stack.PacketBufferList
	list.PushBack(pkt)
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	for b.Loop() {
		e.WritePackets(list)
	}
}

// sink takes all packets.
type sink struct{ *channel.Endpoint }

func (sink) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) { return pkts.Len(), nil }
