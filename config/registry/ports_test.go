package registry

import (
	"math/rand/v2"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// TestRun compares the search for a run with one that looks at every port.
func TestRun(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for size := 1; size <= 4096; size *= 2 {
		for range 40 {
			var b, closed bitmap
			b.set(mapping.PortRange{First: 0, Last: uint16(rnd.IntN(60000))})
			for range rnd.IntN(3000) {
				b.set(mapping.PortRange{First: 60000, Last: 60000 + uint16(rnd.IntN(size))})
				p := uint16(rnd.IntN(maxPorts))
				closed.set(mapping.PortRange{First: p, Last: p})
			}
			got, ok := b.run(&closed, size)
			if got, want := b.runs(&closed, size), slowRuns(&b, &closed, size); got != want {
				t.Fatalf("size %d: %d runs, want %d", size, got, want)
			}
			want, found := slowRun(&b, &closed, size)
			if got != want || ok != found {
				t.Fatalf("size %d: %v %v, want %v %v", size, got, ok, want, found)
			}
		}
	}
}

func slowRuns(b, closed *bitmap, size int) (n int) {
	for first := 0; first < maxPorts; first += size {
		free := true
		for p := first; p < first+size && free; p++ {
			free = (b[p/64]|closed[p/64])>>(p%64)&1 == 0
		}
		if free {
			n++
		}
	}
	return n
}

func slowRun(b, closed *bitmap, size int) (mapping.PortRange, bool) {
	for first := 0; first < maxPorts; first += size {
		free := true
		for p := first; p < first+size && free; p++ {
			free = (b[p/64]|closed[p/64])>>(p%64)&1 == 0
		}
		if free {
			return mapping.PortRange{First: uint16(first), Last: uint16(first + size - 1)}, true
		}
	}
	return mapping.PortRange{}, false
}
