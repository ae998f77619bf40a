package translator

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestPrepare translates packets, whole and cut short, with and without looking
// at them first: nothing may differ, and the look may change and allocate nothing.
func TestPrepare(t *testing.T) {
	for _, share := range []int{0, 64} {
		w, v6, v4, port := benchWorkloads(t, 20_000, share)
		plain, _, _, _ := benchWorkloads(t, 20_000, share) // of its own: workers of one translator share what it may answer
		rnd := rand.New(rand.NewPCG(1, 6))
		forwarded := 0
		for range 50 {
			var packets, same []*Packet
			for range 1 + rnd.IntN(80) {
				at := rnd.IntN(len(v6))
				build := build6(17, 18)
				if rnd.IntN(2) == 0 {
					build = build4(6, 0)
				}
				b := build(v6[at].String(), v4[at].String(), port[at])
				if rnd.IntN(4) == 0 {
					b = b[:rnd.IntN(len(b))]
				}
				packets, same = append(packets, packetOf(b)), append(same, packetOf(b))
			}
			// Other goroutines of the process allocate, too: never as often as this runs.
			if allocs := testing.AllocsPerRun(100, func() { w.Prepare(packets) }); allocs != 0 {
				t.Fatalf("%v allocations", allocs)
			}
			for i, p := range packets {
				if !bytes.Equal(p.Buf, same[i].Buf) || p.Start != same[i].Start || p.End != same[i].End {
					t.Fatal("packet was changed")
				}
				v, want := w.Translate(p), plain.Translate(same[i])
				if v != want || v == Forward6 && !bytes.Equal(p.Bytes(), same[i].Bytes()) { // Forward4 draws identifications
					t.Fatalf("%v, want %v", v, want)
				}
				if v.IsForward() {
					forwarded++
				}
			}
		}
		if forwarded < 500 {
			t.Errorf("%d packets were forwarded: too few to prove anything", forwarded)
		}
	}
}

// TestPreparePolicies is TestPrepare where policies judge, of so many networks that what
// they are looked up in is looked at first.
func TestPreparePolicies(t *testing.T) {
	all := manyPolicies(500, 10_000)
	w, _ := policed(t, all, 0)
	plain, _ := policed(t, all, 0)
	if !w.t.snapshot.Load().policy.Large() {
		t.Fatal("10,000 networks are not large")
	}
	rnd := rand.New(rand.NewPCG(1, 7))
	passed, denied := 0, 0
	for range 30 {
		var packets, same []*Packet
		for range 2 + rnd.IntN(80) {
			p, remote := packetOf(packetTo()), rnd.Uint32()
			address(p, 1, remote)
			if rnd.IntN(8) == 0 {
				p.End -= rnd.IntN(p.End - p.Start)
			}
			packets, same = append(packets, p), append(same, &Packet{Buf: bytes.Clone(p.Buf), Start: p.Start, End: p.End})
		}
		if allocs := testing.AllocsPerRun(100, func() { w.Prepare(packets) }); allocs != 0 {
			t.Fatalf("%v allocations", allocs)
		}
		for i, p := range packets {
			if !bytes.Equal(p.Buf, same[i].Buf) || p.Start != same[i].Start || p.End != same[i].End {
				t.Fatal("packet was changed")
			}
			switch v, want := w.Translate(p), plain.Translate(same[i]); {
			case v != want:
				t.Fatalf("%v, want %v", v, want)
			case v == Forward4:
				passed++
			case v.IsDenied():
				denied++
			}
		}
	}
	if passed < 100 || denied < 100 {
		t.Errorf("%d packets passed, %d were denied: too few to prove anything", passed, denied)
	}
}

// TestPrepareBroken gives packets whose bounds are nonsense.
func TestPrepareBroken(t *testing.T) {
	w, _, _, _ := benchWorkloads(t, 20_000, 0)
	var packets []*Packet
	for _, bounds := range [][2]int{{0, 0}, {-1, 40}, {10, 5}, {0, 101}, {100, 100}, {90, 100}} {
		packets = append(packets, &Packet{Buf: make([]byte, 100), Start: bounds[0], End: bounds[1]})
	}
	w.Prepare(packets)
	w, _ = policed(t, manyPolicies(500, 10_000), 0)
	w.Prepare(packets)
}
