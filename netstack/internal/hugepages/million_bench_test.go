package hugepages

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// BenchmarkMillion is what a packet costs among mappings of which each is as likely as
// another: in batches, and alone, where none can be begun before the one before has
// ended; with the table on small pages, and then on large ones. It says the best of many
// turns, of which each takes a fraction of a millisecond: other work on the machine
// spoils the mean.
func BenchmarkMillion(b *testing.B) {
	for _, n := range []int{1, 10_000, 1_000_000} {
		m := newMillion(b, n)
		for _, pages := range []string{"small", "large"} {
			if pages == "large" {
				if _, err := Advise(m.table.Memory); err != nil {
					b.Skip(err)
				}
			}
			for _, way := range []struct {
				name string
				six  bool
			}{{"6to4", true}, {"4to6", false}} {
				b.Run(fmt.Sprintf("%s/%d/%s/batch", way.name, n, pages), func(b *testing.B) { m.batches(b, way.six) })
				b.Run(fmt.Sprintf("%s/%d/%s/alone", way.name, n, pages), func(b *testing.B) { m.alone(b, way.six) })
			}
		}
	}
}

type million struct {
	table   *mapping.Table
	worker  *translator.Worker
	packets []*translator.Packet
	asked   []int
	next    int
}

const batch = mapping.BatchLen

func newMillion(b *testing.B, n int) *million {
	mappings := make([]mapping.Mapping, n)
	for i := range mappings {
		mappings[i] = mapping.Mapping{IPv6: netip.PrefixFrom(six(i).Addr(), 128), IPv4: netip.PrefixFrom(mapping.Addr4(four(i)), 32)}
	}
	table, err := mapping.New(netip.MustParsePrefix("64:ff9b::/96"), mappings)
	if err != nil {
		b.Fatal(err)
	}
	t, err := translator.New(translator.Config{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1"), Key: [16]byte{1}}, table)
	if err != nil {
		b.Fatal(err)
	}
	m := &million{table: table, worker: t.NewWorker(), asked: make([]int, 1<<20)}
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := range m.asked {
		m.asked[i] = rnd.IntN(n)
	}
	for range batch { // one behind the other, as a queue has its buffers
		m.packets = append(m.packets, &translator.Packet{Buf: make([]byte, 2048+64)})
	}
	return m
}

func six(i int) mapping.Addr6 {
	return mapping.Addr6{Hi: 0x20010db8_00060000, Lo: uint64(i) * 0x9e3779b97f4a7c15}
}
func four(i int) uint32 { return 100<<24 | 64<<16 | uint32(i) }

// write makes p a datagram of 18 bytes from the i-th workload, or to it, in IPv4
// without a checksum that is right: nobody looks at it but the next router.
func write(p *translator.Packet, i int, fromSix bool) {
	p.Start, p.Offload = translator.Headroom, translator.Offload{}
	h := p.Buf[p.Start:]
	if fromSix {
		p.End = p.Start + 40 + 26
		binary.BigEndian.PutUint64(h, 0x60000000_001a1140)
		a := six(i)
		binary.BigEndian.PutUint64(h[8:], a.Hi)
		binary.BigEndian.PutUint64(h[16:], a.Lo)
		binary.BigEndian.PutUint64(h[24:], 0x0064ff9b_00000000)
		binary.BigEndian.PutUint64(h[32:], 0x08080808)
		h = h[40:]
	} else {
		p.End = p.Start + 20 + 26
		binary.BigEndian.PutUint64(h, 0x4500002e_00014000)
		binary.BigEndian.PutUint64(h[8:], 0x40110000_08080808)
		binary.BigEndian.PutUint32(h[16:], four(i))
		sum := uint32(0)
		for k := 0; k < 20; k += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[k:]))
		}
		sum = sum&0xffff + sum>>16
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum&0xffff+sum>>16))
		h = h[20:]
	}
	binary.BigEndian.PutUint64(h, 0x10e10035_001abeef)
}

const turn = 8 * batch

// best runs a turn again and again and reports what a packet takes of the best one,
// without what writing the packets takes.
func (m *million) best(b *testing.B, all, writing func()) {
	least := func(n int, f func()) time.Duration {
		took := time.Hour
		for range n {
			start := time.Now()
			f()
			took = min(took, time.Since(start))
		}
		return took
	}
	without := least(300, writing)
	took := time.Hour
	for b.Loop() {
		took = min(took, least(1, all))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64((took-without).Nanoseconds())/turn, "best-ns/packet")
}

func (m *million) want(fromSix bool) translator.Verdict {
	if fromSix {
		return translator.Forward4
	}
	return translator.Forward6
}

func (m *million) batches(b *testing.B, fromSix bool) {
	fill := func() {
		for _, p := range m.packets {
			write(p, m.asked[m.next&(len(m.asked)-1)], fromSix)
			m.next++
		}
	}
	m.best(b, func() {
		for range turn / batch {
			fill()
			m.worker.Prepare(m.packets)
			for _, p := range m.packets {
				if v := m.worker.Translate(p); v != m.want(fromSix) {
					b.Fatal(v)
				}
			}
		}
	}, func() {
		for range turn / batch {
			fill()
		}
	})
}

// alone asks for the next workload by what the translation before has made.
func (m *million) alone(b *testing.B, fromSix bool) {
	p, nothing := m.packets[0], 0
	m.best(b, func() {
		for range turn {
			write(p, m.asked[(m.next+nothing)&(len(m.asked)-1)], fromSix)
			m.next++
			if v := m.worker.Translate(p); v != m.want(fromSix) {
				b.Fatal(v)
			}
			nothing = int(p.Buf[p.Start+11] & p.Buf[p.Start+1] & 0x80 >> 7) // the header is the result, and its second octet is 0
		}
	}, func() {
		for range turn {
			write(p, m.asked[m.next&(len(m.asked)-1)], fromSix)
			m.next++
		}
	})
}
