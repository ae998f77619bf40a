package translator

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// flow is what differs between the packets of two workloads.
type flow struct {
	six  [16]byte
	four [4]byte
	sum  uint16 // of the IPv4 header
	port uint16
}

// flows are a million packets' workloads in the order of their coming. uniform:
// each is as likely as another, which no cache helps. zipf: the n-th has a
// share of 1/n, as far as traffic was ever measured.
func flows(v6, v4 []netip.Addr, port []uint16, zipf bool) []flow {
	rnd := rand.New(rand.NewPCG(7, 7))
	z := rand.NewZipf(rnd, 1.1, 1, uint64(len(v6)-1))
	all := make([]flow, 1<<20)
	for i := range all {
		at := rnd.IntN(len(v6))
		if zipf {
			at = int(z.Uint64() * 7919 % uint64(len(v6)))
		}
		all[i] = flow{six: v6[at].As16(), four: v4[at].As4(), port: port[at]}
	}
	return all
}

// runFlows translates batches of packets, each of the next flow. A batch's
// headers are written before it is translated, as the kernel would, and the time
// of that counts, too: without is what it takes by itself.
func runFlows(b *testing.B, w *Worker, all []flow, template []byte, want Verdict, size int, prepare bool) {
	packets := make([]*Packet, size)
	for i := range packets {
		packets[i] = packetOf(template)
	}
	header := template[:min(len(template), 60)]
	four := want == Forward6
	if four { // the sum without the destination
		clear(header[16:20])
		clear(header[10:12])
	}
	base := sum20(header)
	for i := range all {
		all[i].sum = ^fold(add(base, uint64(binary.BigEndian.Uint32(all[i].four[:]))))
	}
	next := 0
	begin := func() {
		for _, p := range packets {
			f := &all[next&(len(all)-1)]
			next++
			p.Start, p.End, p.Offload = Headroom, Headroom+len(template), Offload{}
			h := p.Buf[Headroom : Headroom+60]
			copy(h, header)
			if four {
				*(*[4]byte)(h[16:]) = f.four
				binary.BigEndian.PutUint16(h[10:], f.sum)
				binary.BigEndian.PutUint16(h[22:], f.port)
			} else {
				*(*[16]byte)(h[8:]) = f.six
				binary.BigEndian.PutUint16(h[40:], f.port)
			}
		}
	}
	const turn = 4096
	best, without := time.Hour, time.Hour
	for range 64 {
		start := time.Now()
		for range turn / size {
			begin()
		}
		without = min(without, time.Since(start))
	}
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	for i := 0; i < b.N; i += size {
		if i%turn == 0 && i > 0 {
			now := time.Now()
			best, start = min(best, now.Sub(start)), now
		}
		begin()
		if prepare {
			w.Prepare(packets)
		}
		for _, p := range packets {
			if v := w.Translate(p); v != want {
				b.Fatal(v)
			}
		}
	}
	b.ReportMetric(float64(without.Nanoseconds())/turn, "without-ns/op")
	b.ReportMetric(float64((best-without).Nanoseconds())/turn, "net-best-ns/op")
}

// BenchmarkFlows is a packet's translation where the packets of many workloads
// come mixed: one at a time, and in batches that are prepared.
func BenchmarkFlows(b *testing.B) {
	for _, share := range []int{0, 64} {
		for _, n := range []int{10_000, 1_000_000} {
			w, v6, v4, port := benchWorkloads(b, n, share)
			for _, zipf := range []bool{false, true} {
				all := flows(v6, v4, port, zipf)
				for _, way := range []struct {
					name  string
					want  Verdict
					build func(a6, a4 string, port uint16) []byte
				}{{"6to4", Forward4, build6(17, 18)}, {"4to6", Forward6, build4(17, 18)}} {
					for _, c := range []struct {
						name    string
						size    int
						prepare bool
					}{{"single", 1, false}, {"batch", 64, false}, {"prepared", 64, true}} {
						b.Run(fmt.Sprintf("%s/share=%d/mappings=%d/zipf=%v/%s", way.name, share, n, zipf, c.name), func(b *testing.B) {
							runFlows(b, w, all, way.build(v6[0].String(), v4[0].String(), port[0]), way.want, c.size, c.prepare)
						})
					}
				}
			}
		}
	}
}
