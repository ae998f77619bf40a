package netstack

import (
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/refs"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/natless/natless/netstack/host"
	"github.com/natless/natless/translator"
)

// BenchmarkThroughput moves a TCP stream there and back between two gVisor hosts, over a bare
// link in either family and through the endpoint in turn, many times over, and
// reports the ratio of the medians: 1 is as fast as without. Since the hosts
// speak IPv4 at one end and IPv6 at the other, "without" is the mean of both.
func BenchmarkThroughput(b *testing.B) {
	refs.SetLeakMode(refs.NoLeakChecking)
	defer refs.SetLeakMode(refs.LeaksPanic)
	const half, chunk = 16 << 20, 32 << 20
	for _, s := range sides {
		b.Run(s.name, func(b *testing.B) {
			streams := []*stream{newStream(b, nil, workload4, server4), newStream(b, nil, workload6, server46), newStream(b, &s, s.here[0], s.there[0])}
			times, cpu := make([][]time.Duration, len(streams)), make([][]time.Duration, len(streams))
			for b.Loop() {
				for i, c := range streams {
					before := processorTime()
					times[i] = append(times[i], c.move(b, half))
					cpu[i] = append(cpu[i], processorTime()-before)
				}
			}
			b.ReportMetric(0, "ns/op") // of all three together, which says nothing
			speed := func(i int) float64 { return chunk / median(times[i]).Seconds() / 1e6 }
			b.ReportMetric(speed(0), "bare4-MB/s")
			b.ReportMetric(speed(1), "bare6-MB/s")
			b.ReportMetric(speed(2), "wrapped-MB/s")
			b.ReportMetric((1/speed(0)+1/speed(1))/2*speed(2), "ratio")
			cost := func(i int) float64 { return median(cpu[i]).Seconds() / chunk * 1e9 }
			b.ReportMetric(cost(2), "wrapped-CPU-s/GB")
			b.ReportMetric((cost(0)+cost(1))/2/cost(2), "CPU-ratio") // steadier where the machine has other work
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

func median(d []time.Duration) time.Duration {
	for i := range d { // few
		for j := i; j > 0 && d[j] < d[j-1]; j-- {
			d[j], d[j-1] = d[j-1], d[j]
		}
	}
	return d[len(d)/2]
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
