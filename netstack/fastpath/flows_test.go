//go:build linux

package fastpath

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// The types of the maps are those of package flows, field by field.
func TestFlowLayout(t *testing.T) {
	var ck programFlowKey
	var gk flows.Key
	var cs programFlowSum
	var gs flows.Sum
	for name, same := range map[string]bool{
		"sizes":       unsafe.Sizeof(ck) == unsafe.Sizeof(gk) && unsafe.Sizeof(cs) == unsafe.Sizeof(gs),
		"remote":      unsafe.Offsetof(ck.Remote) == unsafe.Offsetof(gk.Remote),
		"slot":        unsafe.Offsetof(ck.Slot) == unsafe.Offsetof(gk.Slot),
		"local port":  unsafe.Offsetof(ck.LocalPort) == unsafe.Offsetof(gk.LocalPort),
		"remote port": unsafe.Offsetof(ck.RemotePort) == unsafe.Offsetof(gk.RemotePort),
		"proto":       unsafe.Offsetof(ck.Proto) == unsafe.Offsetof(gk.Proto),
		"last":        unsafe.Offsetof(cs.Last) == unsafe.Offsetof(gs.Last),
		"packets":     unsafe.Offsetof(cs.Packets) == unsafe.Offsetof(gs.Packets),
		"bytes":       unsafe.Offsetof(cs.Bytes) == unsafe.Offsetof(gs.Bytes),
		"flags":       unsafe.Offsetof(cs.Flags) == unsafe.Offsetof(gs.Flags),
		"began":       unsafe.Offsetof(cs.Began) == unsafe.Offsetof(gs.Began),
	} {
		if !same {
			t.Errorf("%s: C and Go differ", name)
		}
	}
}

func itemised(t testing.TB, room int) *FastPath {
	t.Helper()
	f, err := Load("natless0", Itemising(room, 1))
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// whatever the packets, the programs itemise those that they translate as the daemon
// would.
func TestFlowsAsTheDaemon(t *testing.T) {
	netns.Require(t, netns.Root)
	r, f := newRig(t), itemised(t, 10_000)
	for i, w := range prefixed() {
		j := newPair(t, r, w, f).judge()
		asTheDaemon(t, j, uint64(i), func(p reference.Packet, segments int) (bool, error) {
			o, err := j.check(p, segments)
			return o.translated, err
		})
	}
	front := inFront(t, r, Itemising(10_000, 1))
	for i, w := range prefixed() {
		j := newPair(t, r, w, front).judge()
		run := j.front()
		asTheDaemon(t, j, uint64(i), func(p reference.Packet, segments int) (bool, error) {
			if segments > 0 {
				return false, nil
			}
			return run.check(p)
		})
	}
}

func asTheDaemon(t *testing.T, j *judge, seed uint64, check func(reference.Packet, int) (bool, error)) {
	t.Helper()
	w, f, r := j.world, j.fast, j.rig
	table, s, translated := flows.NewTable(10_000, 1), newSource(w, seed, 300), 0
	r.Do(func() {
		for range 3000 {
			p, segments := s.next()
			done, err := check(p, segments)
			if err != nil {
				t.Errorf("world %s: %v", w.Name, err)
				return
			}
			if done {
				translated++
				add(table, j, p.Offload.GSOType, int(p.Offload.GSOSize), p.Bytes)
			}
		}
	})
	want := map[flows.Key]flows.Sum{}
	table.Drain(func(k *flows.Key, s *flows.Sum) { want[*k] = *s }, func(uint32, flows.Lost) { t.Error("lost") })
	_, err := f.DrainFlows(func(k *flows.Key, s *flows.Sum) {
		is, now := want[*k], flows.Now()
		if s.First <= 0 || s.Last < s.First || s.Last > now || now-s.First > 60e9 {
			t.Errorf("from %d to %d, now is %d", s.First, s.Last, now)
		}
		is.First, is.Last = s.First, s.Last
		if is != *s {
			t.Errorf("world %s: %+v has %+v, want %+v", w.Name, k, s, is)
		}
		delete(want, *k)
	}, func(_ uint32, n flows.Lost) { t.Errorf("lost %+v", n) })
	if err != nil || len(want) > 0 || translated < 100 {
		t.Errorf("world %s: %v; of %d packets, %d flows are missing: %+v", w.Name, err, translated, len(want), want)
	}
}

// add counts the packet that j has just translated, which came as in.
func add(table *flows.Table, j *judge, gso uint8, size int, in []byte) {
	p := flows.Packet{Bytes: j.buffer[translator.Headroom:]}
	out := &translator.Packet{Buf: make([]byte, len(j.buffer)), Start: translator.Headroom}
	out.End = out.Start + copy(out.Buf[out.Start:], in)
	out.GSOType, out.GSOSize = gso, uint16(size)
	j.worker.Translate(out)
	p.Bytes = out.Bytes()
	p.Source, p.Target = j.worker.Slots()
	p.Src, p.Dst = j.worker.Addrs4()
	p.Length = len(p.Bytes)
	if p.Bytes[0]>>4 == 6 {
		p.Length = int(binary.BigEndian.Uint16(in[2:]))
	}
	if gso != translator.GSONone {
		p.GSO = size
	}
	table.AddPacket(&p, 1)
}

// A full map loses detail, which is told by mapping, and no packet; and there is room
// again after it was drained. The second round finds the pair of the first empty.
func TestFlowsFull(t *testing.T) {
	netns.Require(t, netns.Root)
	const room, all = 50, 80
	r, f := newRig(t), itemised(t, room)
	j := newPair(t, r, prefixed()[0], f).judge()
	for round := range 4 {
		r.Do(func() {
			for port := range all {
				b := udp6(64)
				binary.BigEndian.PutUint16(b[42:], uint16(20_000+port))
				if a, _, err := j.workload.run(packetOf(b), 0); err != nil || a != actRedirect {
					t.Errorf("%d, %v", int32(a), err)
				}
			}
		})
		seen, lost := 0, flows.Lost{}
		n, err := f.DrainFlows(func(*flows.Key, *flows.Sum) { seen++ }, func(slot uint32, n flows.Lost) {
			if slot == 0 {
				t.Error("nobody's")
			}
			lost.Packets += n.Packets
			lost.Bytes += n.Bytes
		})
		// What CPUs keep for themselves of the map is as good as full for others.
		if err != nil || n != seen || uint64(seen)+lost.Packets != all || seen > room || seen < room/2 || lost.Bytes == 0 {
			t.Errorf("round %d: %d flows, %+v lost, %v", round, seen, lost, err)
		}
	}
}

// Of a sample, what is counted stands for all packets; eight standard deviations are
// room enough for chance.
func TestFlowsSample(t *testing.T) {
	netns.Require(t, netns.Root)
	const all, one = 4000, 10
	f, err := Load("natless0", Itemising(100, one))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := newRig(t)
	j := newPair(t, r, prefixed()[0], f).judge()
	r.Do(func() {
		for range all {
			if a, _, err := j.workload.run(packetOf(udp6(64)), 0); err != nil || a != actRedirect {
				t.Fatalf("%d, %v", int32(a), err)
			}
		}
	})
	got := uint64(0)
	if _, err := f.DrainFlows(func(_ *flows.Key, s *flows.Sum) { got += s.Packets[flows.Sent] }, func(_ uint32, n flows.Lost) { t.Errorf("lost %+v", n) }); err != nil {
		t.Error(err)
	}
	if got < all/one-160 || got > all/one+160 {
		t.Errorf("%d packets are counted of %d, want some %d", got, all, all/one)
	}
}

// Emptied in the middle, or taken away, the maps change no packet's way.
func TestFlowsChangeNothing(t *testing.T) {
	netns.Require(t, netns.Root)
	r, f := newRig(t), itemised(t, 100)
	j := newPair(t, r, prefixed()[0], f).judge()
	for n := range 300 {
		switch {
		case n == 200:
			for i := range uint32(2) {
				if err := f.maps.Flows.Delete(i); err != nil {
					t.Fatal(err)
				}
			}
		case n%50 == 0 && n < 200:
			if _, err := f.DrainFlows(func(*flows.Key, *flows.Sum) {}, func(uint32, flows.Lost) {}); err != nil {
				t.Fatal(err)
			}
		}
		r.Do(func() {
			if a, _, err := j.workload.run(packetOf(udp6(64)), 0); err != nil || a != actRedirect {
				t.Errorf("packet %d: %d, %v", n, int32(a), err)
			}
		})
	}
}

func packetOf(b []byte) reference.Packet { return reference.Packet{Bytes: b} }

// What a process has itemised that was killed, or ended, its successor drains, once;
// one that does not itemise leaves none of it.
func TestFlowsInherited(t *testing.T) {
	netns.Require(t, netns.Root)
	dir := bpffs(t)
	r, f := newRig(t), itemised(t, 100)
	newPair(t, r, prefixed()[0], f)
	if err := f.Pin(dir); err != nil {
		t.Fatal(err)
	}
	run := func(f *FastPath, n int) {
		t.Helper()
		r.Do(func() {
			w := newRunner(f.Workload.FD(), r.work, r.workMAC)
			for range n {
				if a, _, err := w.run(packetOf(udp6(64)), 0); err != nil || a != actRedirect {
					t.Errorf("%d, %v", int32(a), err)
				}
			}
		})
	}
	drain := func(f *FastPath, want uint64) {
		t.Helper()
		got := uint64(0)
		if _, err := f.DrainFlows(func(_ *flows.Key, s *flows.Sum) {
			got += s.Packets[flows.Sent]
		}, func(_ uint32, n flows.Lost) { t.Errorf("lost %+v", n) }); err != nil || got != want {
			t.Errorf("%d packets, want %d, %v", got, want, err)
		}
	}
	run(f, 1)
	drain(f, 1)
	run(f, 3)
	heir, err := Adopt(dir, "natless0", Itemising(200, 1))
	if err != nil {
		t.Fatal(err)
	}
	run(f, 2) // whose programs are there still, and have the heir's maps
	drain(heir, 5)
	run(heir, 4)
	drain(heir, 4)
	run(heir, 5)
	if err := heir.Close(); err != nil {
		t.Fatal(err)
	}
	drain(heir, 5) // closed, and all the same
	run(f, 7)
	last, err := Adopt(dir, "natless0", Itemising(200, 1))
	if err != nil {
		t.Fatal(err)
	}
	drain(last, 7)
	last.Close()
	without, err := Adopt(dir, "natless0")
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	run(without, 1)
	run(f, 1)
	for n := range flowPins {
		for _, name := range flowPins[n] {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%s is left", name)
			}
		}
	}
}

// BenchmarkItemised is what a program takes for a small packet, with flows itemised
// and without, of one flow and of 100,000. The kernel takes the time of each run; the
// median is told.
func BenchmarkItemised(b *testing.B) {
	r := newRig(b)
	for _, with := range []bool{false, true} {
		f, name := loaded(b), "without"
		if with {
			f, name = itemised(b, 131_072), "with"
		}
		j := newPair(b, r, prefixed()[0], f).judge()
		for _, count := range []int{1, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", name, count), func(b *testing.B) {
				in := udp6(18)
				var took []uint32
				r.Do(func() {
					for i := range b.N {
						flow := i * 7919 % count
						binary.BigEndian.PutUint16(in[42:], uint16(flow))
						in[39] = byte(3 + flow>>16)
						if a, _, err := j.workload.run(packetOf(in), 0); err != nil || a != actRedirect {
							b.Errorf("%d, %v", int32(a), err)
							return
						}
						took = append(took, j.workload.attr.duration)
					}
				})
				slices.Sort(took)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(took[len(took)/2]), "ns/packet")
			})
		}
	}
}

// BenchmarkDrain is what it takes to take a flow away.
func BenchmarkDrain(b *testing.B) {
	r, f := newRig(b), itemised(b, 131_072)
	newPair(b, r, prefixed()[0], f)
	keys, sums := make([]flows.Key, 60_000), make([]flows.Sum, 60_000)
	for i := range keys {
		keys[i] = flows.Key{Local: 1, Remote: uint32(i), Proto: 17}
	}
	n := 0
	for b.Loop() {
		b.StopTimer()
		if _, err := f.itemising.pair[f.itemising.seen][0].BatchUpdate(keys, sums, nil); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := f.DrainFlows(func(*flows.Key, *flows.Sum) { n++ }, func(uint32, flows.Lost) {}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
}
