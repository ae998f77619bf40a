package mapping

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/natless/natless/translator/ports"
)

// hosts are n mappings of one address to one address, in the order in which a
// generated file has them; port sets are 64 workloads on each address.
func hosts(n int) []Mapping {
	list := make([]Mapping, n)
	for i := range list {
		list[i] = Mapping{
			IPv6: netip.PrefixFrom(Addr6{0x20010db8_00060000 | uint64(i>>16), uint64(i)*0x9e3779b97f4a7c15 | 1}.Addr(), 128),
			IPv4: netip.PrefixFrom(Addr4(0x0a000000+uint32(i)), 32),
		}
	}
	return list
}

func sharers(n int) []Mapping {
	list := hosts(n)
	for i := range list {
		list[i].IPv4 = netip.PrefixFrom(Addr4(0x0a000000+uint32(i>>6)), 32)
		first := uint16(i&63) << 10
		list[i].Ports = ports.Of(ports.Range{First: first, Last: first + 1023})
	}
	return list
}

var sizes = []int{1, 10_000, 1_000_000}

func benchTable(b *testing.B, list []Mapping) *Table {
	b.Helper()
	t, err := New(netip.MustParsePrefix("64:ff9b::/96"), list)
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// shuffled are addresses of the mappings in random order: of a million, so many
// that none is in a cache when it is asked for again.
func shuffled(list []Mapping) (six []Addr6, four []uint32, asked []uint16) {
	rnd := rand.New(rand.NewPCG(1, 1))
	n := 1 << 12
	if len(list) > 1<<16 {
		n = 1 << 20
	}
	six, four, asked = make([]Addr6, n), make([]uint32, n), make([]uint16, n)
	for i := range n {
		m := list[rnd.IntN(len(list))]
		six[i], four[i] = Addr6From(m.IPv6.Addr()), Addr4From(m.IPv4.Addr())
		if !m.Ports.IsZero() {
			asked[i] = m.Ports.Min() + uint16(rnd.IntN(m.Ports.Run(0).Size()))
		}
	}
	return six, four, asked
}

// BenchmarkLookup: found6 and found4 find a mapping, each question depending
// on the answer before; missed6 and missed4 ask for addresses under the RFC
// 6052 prefix and elsewhere; port asks for a port of a shared address.
func BenchmarkLookup(b *testing.B) {
	for _, n := range sizes {
		list := hosts(n)
		t := benchTable(b, list)
		six, four, _ := shuffled(list)
		mask := len(six) - 1
		b.Run(fmt.Sprintf("found6/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			x := uint32(0)
			for i := 0; b.Loop(); i++ {
				a := six[(i+int(x>>31&1))&mask]
				x = t.Lookup6(a).To4(a)
			}
		})
		b.Run(fmt.Sprintf("found4/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			x := uint64(0)
			for i := 0; b.Loop(); i++ {
				a := four[(i+int(x>>63))&mask]
				x = t.Lookup4(a).To6(a).Hi
			}
		})
		b.Run(fmt.Sprintf("missed6/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if t.Lookup6(t.Embed(uint32(i)*0x9e3779b9)) != nil {
					b.Fatal("found")
				}
			}
		})
		b.Run(fmt.Sprintf("missed4/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if t.Lookup4(0x80000000|uint32(i)*0x9e3779b9) != nil {
					b.Fatal("found")
				}
			}
		})
	}
	for _, n := range []int{64, 64_000, 1_000_000} {
		list := sharers(n)
		t := benchTable(b, list)
		_, four, asked := shuffled(list)
		mask := len(four) - 1
		b.Run(fmt.Sprintf("port/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			x := uint64(0)
			for i := 0; b.Loop(); i++ {
				k := (i + int(x>>63)) & mask
				x = t.Port(t.Lookup4(four[k]), four[k], asked[k]).To6(four[k]).Hi
			}
		})
	}
}

// BenchmarkEdit removes a mapping and inserts it again, each giving a table.
func BenchmarkEdit(b *testing.B) {
	for _, kind := range []struct {
		name string
		list func(int) []Mapping
	}{{"hosts", hosts}, {"sharers", sharers}} {
		list := kind.list(1_000_000)
		rand.New(rand.NewPCG(1, 1)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		t := benchTable(b, list)
		b.Run(kind.name+"/1000000", func(b *testing.B) {
			b.ReportAllocs()
			all := make([]time.Duration, 0, 1<<16)
			now := t
			for i := 0; b.Loop(); i++ {
				start := time.Now()
				change := now.Remove
				if i&1 == 1 {
					change = now.Insert
				}
				next, err := change(list[i/2%1_000_000])
				all = append(all, time.Since(start))
				if err != nil {
					b.Fatal(err)
				}
				now = next
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2])/1e3, "p50-µs")
			b.ReportMetric(float64(all[len(all)*99/100])/1e3, "p99-µs")
		})
	}
}

// BenchmarkBuild makes a table of a million from a slice, and weighs it.
func BenchmarkBuild(b *testing.B) {
	for _, kind := range []struct {
		name string
		list func(int) []Mapping
	}{{"hosts", hosts}, {"sharers", sharers}} {
		b.Run(kind.name+"/1000000", func(b *testing.B) {
			list := kind.list(1_000_000)
			var t *Table
			before := heap()
			for b.Loop() {
				t = benchTable(b, list)
			}
			b.ReportMetric(float64(heap()-before)/1e6, "MB")
			start := time.Now()
			runtime.GC()
			b.ReportMetric(float64(time.Since(start).Microseconds())/1e3, "gc-ms")
			runtime.KeepAlive(t)
			runtime.KeepAlive(list)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMemory is what a load from memory costs that no cache has: one after
// the other, and when none depends on another. A lookup among a million mappings
// does two, in a batch of the second kind: no table can be much faster.
func BenchmarkMemory(b *testing.B) {
	memory := make([]uint64, 64<<20/8)
	for i := range memory {
		memory[i] = uint64(i)
	}
	next := func(at uint64) uint64 { return at*6364136223846793005 + 1442695040888963407 }
	where := func(at uint64) uint64 { return at >> 40 & uint64(len(memory)-1) }
	b.Run("dependent", func(b *testing.B) {
		for at := uint64(1); b.Loop(); warmed = at {
			at = next(at + memory[where(at)])
		}
	})
	b.Run("independent", func(b *testing.B) {
		sum := uint64(0)
		for at := uint64(1); b.Loop(); at = next(at) {
			sum += memory[where(at)]
		}
		warmed = sum
	})
}

var warmed uint64 // so that what is read is read
