package flows

import (
	"bytes"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// What lies in the kernel's map.
func TestLayout(t *testing.T) {
	if k, s := unsafe.Sizeof(Key{}), unsafe.Sizeof(Sum{}); k != 20 || s != 64 {
		t.Errorf("a key has %d bytes and a sum %d", k, s)
	}
}

func keyOf(n int) Key {
	return Key{Local: 0xc6336402, Remote: 0xc0000200 + uint32(n>>16), Slot: uint32(1 + n%3), LocalPort: uint16(n), RemotePort: 443, Proto: protoTCP}
}

// A table holds what a map holds, and what finds no room is lost to the byte.
func TestTableAgainstMap(t *testing.T) {
	t.Parallel()
	const room = 500
	table := NewTable(room, 1)
	for round := range 3 { // a drained table is as a new one
		r := rand.New(rand.NewPCG(1, uint64(round)))
		want, lost := map[Key]*Sum{}, map[uint32]Lost{}
		for now := int64(1); now < 20_000; now++ {
			k, d, bytes, flags := keyOf(r.IntN(600)), Direction(r.IntN(2)), r.Uint64N(1500), uint8(r.IntN(64))
			table.Add(k, d, 2, bytes, flags, now)
			s := want[k]
			if s == nil && len(want) == room {
				lost[k.Slot] = Lost{Packets: lost[k.Slot].Packets + 2, Bytes: lost[k.Slot].Bytes + bytes}
				continue
			}
			if s == nil {
				s = &Sum{First: now, Began: d}
				want[k] = s
			}
			s.Last = now
			s.Packets[d] += 2
			s.Bytes[d] += bytes
			s.Flags[d] |= uint32(flags)
		}
		if len(want) != room || len(lost) != 3 {
			t.Fatalf("%d flows, %d have lost some: the test tests nothing", len(want), len(lost))
		}
		seen := 0
		table.Drain(func(k *Key, s *Sum) {
			seen++
			if w := want[*k]; w == nil || *w != *s {
				t.Errorf("%+v has %+v, want %+v", k, s, w)
			}
		}, func(slot uint32, n Lost) {
			if lost[slot] != n {
				t.Errorf("slot %d lost %+v, want %+v", slot, n, lost[slot])
			}
			delete(lost, slot)
		})
		if seen != room || len(lost) != 0 || table.Len() != 0 {
			t.Errorf("%d flows; nothing said of %v; %d are left", seen, lost, table.Len())
		}
	}
}

// More workloads lose something than a table knows by name: the sum is right.
func TestTableLosesOfMany(t *testing.T) {
	t.Parallel()
	table := NewTable(1, 1)
	for i := range uint32(5000) {
		table.Add(Key{Slot: i + 1}, Sent, 1, 100, 0, 1)
	}
	var sum Lost
	table.Drain(func(_ *Key, s *Sum) { sum.Packets += s.Packets[Sent] }, func(_ uint32, n Lost) {
		sum.Packets += n.Packets
		sum.Bytes += n.Bytes
	})
	if sum.Packets != 5000 || sum.Bytes != 4999*100 {
		t.Errorf("%+v", sum)
	}
}

// TestSample: of a sample, the packets that are counted stand for all, whoever sends them
// in whatever rhythm; eight standard deviations are room enough for chance.
func TestSample(t *testing.T) {
	t.Parallel()
	const all, one = 400_000, 50
	table := NewTable(10, one)
	regular := Packet{Bytes: make([]byte, 40), Length: 40, Source: 1}
	regular.Bytes[0], regular.Bytes[9] = 0x45, protoUDP
	other := regular
	other.Bytes, other.Source = bytes.Clone(regular.Bytes), 2
	for i := range all {
		if i%one == 0 { // which a sample of each fiftieth would see always, or never
			table.AddPacket(&regular, 1)
		} else {
			table.AddPacket(&other, 1)
		}
	}
	got := map[uint32]float64{}
	table.Drain(func(k *Key, s *Sum) { got[k.Slot] = float64(s.Packets[Sent]) }, func(uint32, Lost) { t.Error("something is lost") })
	for slot, sent := range map[uint32]float64{1: all / one, 2: all - all/one} {
		want := sent / one
		if math.Abs(got[slot]-want) > 8*math.Sqrt(want) {
			t.Errorf("slot %d: %v packets of %v, want some %v", slot, got[slot], sent, want)
		}
	}
}

func TestTableDoesNotAllocate(t *testing.T) {
	table, n := NewTable(10_000, 1), 0
	packet := Packet{Bytes: make([]byte, 40), Length: 40, Source: 1, Target: 2}
	packet.Bytes[0], packet.Bytes[9] = 0x45, protoTCP
	if a := testing.AllocsPerRun(20_000, func() {
		packet.Bytes[20], packet.Bytes[21] = byte(n>>8), byte(n)
		table.AddPacket(&packet, 1)
		n++
	}); a != 0 {
		t.Errorf("%v allocations for a packet", a)
	}
}

// A loop that never rests and one that sleeps hand over all that they saw, once.
func TestQueueHandsOver(t *testing.T) {
	t.Parallel()
	for _, rest := range []time.Duration{0, 200 * time.Microsecond} {
		s := NewQueueSource(1000, 1)
		var loop sync.WaitGroup
		const batches = 20_000
		sent := 0
		loop.Go(func() {
			for end := time.Now().Add(300 * time.Millisecond); sent < batches && time.Now().Before(end); sent++ {
				table := s.Begin()
				table.Add(keyOf(sent%100), Sent, 1, 60, 0, 1)
				s.End(table)
				if rest > 0 {
					time.Sleep(rest)
				}
			}
		})
		done := make(chan struct{})
		go func() { loop.Wait(); close(done) }()
		got := uint64(0)
		count := func(_ *Key, s *Sum) { got += s.Packets[Sent] }
		drains := 0
		for running := true; running; drains++ {
			select {
			case <-done:
				running = false
			default:
			}
			if err := s.Drain(count, func(uint32, Lost) { t.Error("something is lost") }); err != nil && rest > 0 {
				t.Error(err)
			}
		}
		if got != uint64(sent) || drains < 3 {
			t.Errorf("rests %v: %d packets of %d, drained %d times", rest, got, sent, drains)
		}
	}
}

// A loop in the middle of a batch keeps its table, and nobody waits for it for long.
func TestQueueStuck(t *testing.T) {
	t.Parallel()
	s := NewQueueSource(10, 1)
	table := s.Begin()
	if err := s.Drain(nil, nil); err == nil {
		t.Error("took the table of a batch")
	}
	table.Add(keyOf(1), Sent, 1, 60, 0, 1)
	s.End(table)
	seen := 0
	if err := s.Drain(func(*Key, *Sum) { seen++ }, nil); err != nil || seen != 1 {
		t.Errorf("%v, %d flows", err, seen)
	}
}

func TestExpire(t *testing.T) {
	t.Parallel()
	const second = int64(time.Second)
	o := NewOpen(Limits{Idle: 15 * second, Active: 60 * second, Most: 4})
	tcp, quiet, long := keyOf(1), keyOf(2), keyOf(3)
	put := func(k Key, first, last int64, flags [2]uint32) bool {
		return o.Merge(&k, &Sum{First: first * second, Last: last * second, Packets: [2]uint64{1, 1}, Flags: flags}, func(*Key, *Sum) any { return nil })
	}
	put(tcp, 100, 100, [2]uint32{fin, 0})
	put(tcp, 101, 102, [2]uint32{0, fin})
	put(quiet, 95, 101, [2]uint32{})
	put(long, 50, 110, [2]uint32{fin, 0}) // half closed: it goes on
	put(keyOf(4), 110, 110, [2]uint32{rst, 0})
	if put(keyOf(5), 110, 110, [2]uint32{}) || o.Len() != 4 {
		t.Error("more are open than may be")
	}
	for _, c := range []struct {
		now  int64
		want map[Key]Reason
	}{
		{103, nil},
		{104, map[Key]Reason{tcp: Ended}},
		{110, map[Key]Reason{long: Active}},
		{116, map[Key]Reason{quiet: Idle, keyOf(4): Ended}},
	} {
		got := map[Key]Reason{}
		o.Expire(c.now*second, func(k *Key, s *Sum, _ any, why Reason) {
			got[*k] = why
			if *k == tcp && (s.Packets != [2]uint64{2, 2} || s.First != 100*second || s.Last != 102*second) {
				t.Errorf("not merged: %+v", s)
			}
		})
		for k, why := range got {
			if c.want[k] != why {
				t.Errorf("at %d: %+v ended: %v", c.now, k, why)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("at %d: %d ended, want %d", c.now, len(got), len(c.want))
		}
	}
	if o.Len() != 0 {
		t.Errorf("%d are open", o.Len())
	}
}

// The earlier of two sums says who began.
func TestMergeBegan(t *testing.T) {
	t.Parallel()
	s := Sum{First: 10, Last: 20, Began: Sent}
	s.Add(&Sum{First: 5, Last: 7, Began: Received})
	s.Add(&Sum{First: 6, Last: 30, Began: Sent})
	if s.First != 5 || s.Last != 30 || s.Began != Received {
		t.Errorf("%+v", s)
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, flows := range []int{1, 100_000} {
		b.Run(map[bool]string{true: "one", false: "100000"}[flows == 1], func(b *testing.B) {
			table := NewTable(100_000, 1)
			for i := range b.N {
				table.Add(keyOf(i%flows), Sent, 1, 60, 0, int64(i))
			}
		})
	}
}

func BenchmarkMergeMillion(b *testing.B) {
	o := NewOpen(Limits{Idle: 1 << 60, Active: 1 << 60, Most: 1 << 20})
	s := Sum{First: 1, Last: 1, Packets: [2]uint64{1, 1}}
	for i := range b.N {
		k := keyOf(i & (1<<20 - 1))
		k.Remote = uint32(i>>16) & 15
		o.Merge(&k, &s, func(*Key, *Sum) any { return nil })
	}
}

// many is a source of flows that are all new.
type many struct{ n int }

func (m *many) Presses() bool { return false }
func (m *many) Drain(flow func(*Key, *Sum), _ func(uint32, Lost)) error {
	now := Now()
	for range 100_000 {
		m.n++
		k := keyOf(m.n)
		k.Remote = uint32(m.n >> 16)
		flow(&k, &Sum{First: now, Last: now, Packets: [2]uint64{1}})
	}
	return nil
}

// TestOpenInParts: who looks at all open flows sees each once, while others come and go;
// and while he takes his time, flows are collected and the figures are told.
func TestOpenInParts(t *testing.T) {
	t.Parallel()
	const there = 3*openChunk + 5
	source := &handed{}
	c := NewCollector(Config{Limits: Limits{Idle: int64(time.Hour), Active: int64(time.Hour), Most: 10 * openChunk}, Sources: []Source{source},
		Owner: func(uint32, netip.AddrPort, time.Time) any { return nil }, Log: slog.New(slog.DiscardHandler)})
	for n := range there {
		source.flows = append(source.flows, n)
	}
	c.Collect()
	seen := map[Key]int{}
	parts := 0
	for part := range c.Open(func(r *Record) bool { return r.Reason == 0 }) {
		if parts++; len(part) > openChunk {
			t.Errorf("%d at once", len(part))
		}
		for i := range part {
			seen[part[i].Key]++
		}
		source.flows = append(source.flows, there+parts) // would wait for ever, if this held the collector
		if c.Collect(); c.Stats().Open != there+parts {
			t.Errorf("%d are open, want %d", c.Stats().Open, there+parts)
		}
	}
	for n := range there {
		if seen[keyOf(n)] != 1 {
			t.Fatalf("flow %d was seen %d times", n, seen[keyOf(n)])
		}
	}
	for range c.Open(func(*Record) bool { return true }) {
		break // and who has seen enough leaves nothing locked
	}
	c.Collect()
}

// TestStatsDoNotWait: who asks for the figures does not wait for a pass.
func TestStatsDoNotWait(t *testing.T) {
	t.Parallel()
	c := NewCollector(Config{Limits: Limits{Most: 1}})
	c.mu.Lock()
	defer c.mu.Unlock()
	done := make(chan Stats)
	go func() { done <- c.Stats() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("figures wait for a pass")
	}
}

// handed is a source of flows that the test hands to it.
type handed struct{ flows []int }

func (h *handed) Presses() bool { return false }
func (h *handed) Drain(flow func(*Key, *Sum), _ func(uint32, Lost)) error {
	for _, n := range h.flows {
		k := keyOf(n)
		flow(&k, &Sum{First: Now(), Last: Now(), Packets: [2]uint64{1}})
	}
	h.flows = nil
	return nil
}

// BenchmarkPass is what a flow takes from a table to its record.
func BenchmarkPass(b *testing.B) {
	source := &many{}
	c := NewCollector(Config{Limits: Limits{Idle: 0, Active: 1, Most: 1 << 20}, Sources: []Source{source},
		Owner: func(uint32, netip.AddrPort, time.Time) any { return nil }, Log: slog.New(slog.DiscardHandler)})
	for b.Loop() {
		c.pass()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(source.n), "ns/flow")
}
