//go:build linux

package page

import (
	"slices"
	"sync"
	"time"
)

// Samples are taken when somebody looks, so that nobody pays for a page that
// nobody sees; who goes on looking sees a line of them.
const (
	keep      = 60
	leastSpan = 500 * time.Millisecond
	longest   = 2 * time.Minute // a rate over more says nothing of now
)

// history is what was counted at the last views.
type history[T any] struct {
	mu      sync.Mutex
	samples []sample[T]
}

type sample[T any] struct {
	at     time.Time
	counts T
}

// look takes a sample unless the last one is too young, and gives all.
func (h *history[T]) look(now time.Time, counts func() T) []sample[T] {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.samples); n > 0 && now.Sub(h.samples[n-1].at) > longest {
		h.samples = nil
	}
	if n := len(h.samples); n == 0 || now.Sub(h.samples[n-1].at) >= leastSpan {
		h.samples = append(h.samples, sample[T]{now, counts()})
	}
	if len(h.samples) > keep {
		h.samples = slices.Delete(h.samples, 0, len(h.samples)-keep)
	}
	return slices.Clone(h.samples)
}

// perSecond is how fast something grew. A counter that has fallen has begun anew:
// nothing is known of it yet.
func perSecond(then, now uint64, seconds float64) float64 {
	if now < then || seconds <= 0 {
		return 0
	}
	return float64(now-then) / seconds
}

// stretch is the last two samples, and the time between them; 0: there is one only.
func stretch[T any](samples []sample[T]) (before, last *sample[T], seconds float64) {
	n := len(samples)
	before, last = &samples[max(n-2, 0)], &samples[n-1]
	return before, last, last.at.Sub(before.at).Seconds()
}

// flow is what went one way, as a card shows it.
type flow struct {
	Name           string
	Packets, Bytes uint64
	PacketRate     float64 // a second, over the last two samples
	BitRate        float64
	Known          bool // whether there were two samples
	Chart          chart
}

// flowOf makes a card of the samples of a counter.
func flowOf[T any](name string, samples []sample[T], read func(*T) (packets, bytes uint64)) flow {
	before, last, seconds := stretch(samples)
	f := flow{Name: name, Known: seconds > 0}
	f.Packets, f.Bytes = read(&last.counts)
	packets, bytes := read(&before.counts)
	f.PacketRate, f.BitRate = perSecond(packets, f.Packets, seconds), 8*perSecond(bytes, f.Bytes, seconds)
	var line []point
	for i := range samples[1:] {
		from, to := &samples[i], &samples[i+1]
		_, then := read(&from.counts)
		_, now := read(&to.counts)
		line = append(line, point{from.at, to.at, 8 * perSecond(then, now, to.at.Sub(from.at).Seconds())})
	}
	f.Chart = chartOf(line)
	return f
}
