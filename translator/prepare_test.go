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

// TestPrepareBroken gives packets whose bounds are nonsense.
func TestPrepareBroken(t *testing.T) {
	w, _, _, _ := benchWorkloads(t, 20_000, 0)
	var packets []*Packet
	for _, bounds := range [][2]int{{0, 0}, {-1, 40}, {10, 5}, {0, 101}, {100, 100}, {90, 100}} {
		packets = append(packets, &Packet{Buf: make([]byte, 100), Start: bounds[0], End: bounds[1]})
	}
	w.Prepare(packets)
}
