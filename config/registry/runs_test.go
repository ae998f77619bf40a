package registry

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// TestRuns compares with a bitmap: ranges that overlap, touch, lie inside each
// other, and reach the first and the last port.
func TestRuns(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 4))
	edge := func() uint16 { // few different ones, so that they often meet
		if rnd.IntN(3) == 0 {
			return uint16(rnd.IntN(maxPorts))
		}
		return []uint16{0, 1, 63, 64, 65, 127, 128, 1000, 1001, 1002, 65533, 65534, 65535}[rnd.IntN(13)]
	}
	for range 200 {
		var s runs
		var b bitmap
		for range 100 {
			a, z := edge(), edge()
			r := mapping.PortRange{First: min(a, z), Last: max(a, z)}
			switch rnd.IntN(3) {
			case 0:
				s.set(r)
				b.set(r)
			case 1:
				s.clear(r)
				b.clear(r)
			default:
				if got, want := s.any(r), b.any(r); got != want {
					t.Fatalf("any of %v in %v: %v, want %v", r, s, got, want)
				}
			}
			if s.bitmap() != b {
				t.Fatalf("%v is not the same as the bitmap after %v", s, r)
			}
			for i := 1; i < len(s); i++ {
				if int(s[i].First) <= int(s[i-1].Last)+1 {
					t.Fatalf("%v: two ranges touch or are out of order", s)
				}
			}
			if slices.ContainsFunc(s, func(r mapping.PortRange) bool { return r.First > r.Last }) {
				t.Fatalf("%v: a range runs backwards", s)
			}
		}
	}
}
