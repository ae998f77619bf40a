package translator

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// benchWorkloads makes a worker with n mappings, and the addresses of each
// workload. With share > 0, that many workloads share each IPv4 address.
func benchWorkloads(t testing.TB, n, share int) (*Worker, []netip.Addr, []netip.Addr, []uint16) {
	t.Helper()
	mappings := make([]mapping.Mapping, n)
	v6, v4, port := make([]netip.Addr, n), make([]netip.Addr, n), make([]uint16, n)
	for i := range n {
		a := netip.MustParseAddr("2001:db8:6::").As16()
		binary.BigEndian.PutUint64(a[8:], uint64(i)*0x9e3779b97f4a7c15)
		v6[i], port[i] = netip.AddrFrom16(a), 4321
		number := i
		if share > 0 {
			number = i / share
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 100<<24|64<<16|uint32(number))
		v4[i] = netip.AddrFrom4(b)
		mappings[i] = mapping.Mapping{IPv6: netip.PrefixFrom(v6[i], 128), IPv4: netip.PrefixFrom(v4[i], 32)}
		if share > 0 {
			first := uint16(1024 + i%share*1000)
			port[i] = first + 17
			mappings[i].Ports = ports.Of(ports.Range{First: first, Last: first + 999})
		}
	}
	table, err := mapping.New(netip.MustParsePrefix(testPrefix), mappings)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(testConfig(), table)
	if err != nil {
		t.Fatal(err)
	}
	return tr.NewWorker(), v6, v4, port
}

// benchPackets are 1024 packets of as many workloads, 6→4 or 4→6.
func benchPackets(t testing.TB, v6, v4 []netip.Addr, port []uint16, build func(a6, a4 string, port uint16) []byte) []*Packet {
	t.Helper()
	packets := make([]*Packet, 1024)
	for i := range packets {
		at := i * 7919 % len(v6)
		packets[i] = packetOf(build(v6[at].String(), v4[at].String(), port[at]))
	}
	return packets
}

// run translates packets again and again; only their headers are put back. As
// other work on the machine spoils the mean, it reports the best batch, too.
func run(b *testing.B, w *Worker, packets []*Packet, want Verdict) {
	runWay(b, w, packets, want, false)
}

// runWay is run, by the general way alone where slow says so.
func runWay(b *testing.B, w *Worker, packets []*Packet, want Verdict, slow bool) {
	const header = 60
	saved := make([][header]byte, len(packets))
	ends := make([]int, len(packets))
	for i, p := range packets {
		copy(saved[i][:], p.Bytes())
		ends[i] = p.End
	}
	const batch = 4096
	best, start := time.Hour, time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%batch == 0 && i > 0 {
			now := time.Now()
			best, start = min(best, now.Sub(start)), now
		}
		at := i & (len(packets) - 1)
		p := packets[at]
		p.Start, p.End, p.Offload = Headroom, ends[at], Offload{}
		copy(p.Buf[Headroom:Headroom+header], saved[at][:])
		v := Malformed
		if slow {
			v = general(w, p)
		} else {
			v = w.Translate(p)
		}
		if v != want {
			b.Fatal(v)
		}
	}
	if b.N > batch {
		b.ReportMetric(float64(best.Nanoseconds())/batch, "best-ns/op")
	}
}

func build6(proto uint8, n int) func(a6, a4 string, port uint16) []byte {
	return func(a6, _ string, port uint16) []byte {
		h := hdr6{src: a6, dst: server6, proto: proto}
		if proto == 6 {
			return h.packet(tcp(a6, server6, port, 80, data(n)))
		}
		return h.packet(udp(a6, server6, port, 53, data(n)))
	}
}

func build4(proto uint8, n int) func(a6, a4 string, port uint16) []byte {
	return func(_, a4 string, port uint16) []byte {
		h := hdr4{src: server4, dst: a4, proto: proto, flags: 0x4000}
		if proto == 6 {
			return h.packet(tcp(server4, a4, 80, port, data(n)))
		}
		return h.packet(udp(server4, a4, 53, port, data(n)))
	}
}

var benchCases = []struct {
	name  string
	proto uint8
	bytes int
}{{"TCP", 6, 0}, {"TCP1400", 6, 1400}, {"UDP", 17, 18}, {"UDP1400", 17, 1400}}

func BenchmarkTranslateTo4(b *testing.B) {
	for _, c := range benchCases {
		for _, n := range []int{1, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/mappings=%d", c.name, n), func(b *testing.B) {
				w, v6, v4, port := benchWorkloads(b, n, 0)
				run(b, w, benchPackets(b, v6, v4, port, build6(c.proto, c.bytes)), Forward4)
			})
		}
	}
}

func BenchmarkTranslateTo6(b *testing.B) {
	for _, c := range benchCases {
		for _, n := range []int{1, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/mappings=%d", c.name, n), func(b *testing.B) {
				w, v6, v4, port := benchWorkloads(b, n, 0)
				run(b, w, benchPackets(b, v6, v4, port, build4(c.proto, c.bytes)), Forward6)
			})
		}
	}
}

// 64 workloads on each of 1,000 shared addresses.
func BenchmarkTranslateShared(b *testing.B) {
	w, v6, v4, port := benchWorkloads(b, 64_000, 64)
	b.Run("6to4", func(b *testing.B) {
		run(b, w, benchPackets(b, v6, v4, port, build6(6, 0)), Forward4)
	})
	b.Run("4to6", func(b *testing.B) {
		run(b, w, benchPackets(b, v6, v4, port, build4(6, 0)), Forward6)
	})
}
