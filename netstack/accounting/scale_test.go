package accounting

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"
)

func first(n int) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		for i := range n {
			if !yield(Place{Serial: uint64(i + 1), Slot: uint32(i + 1)}) {
				return
			}
		}
	}
}

// BenchmarkEdit is an edit, alone and while accounts are scraped all the time. The
// counters take as long as those of two loops and of the kernel.
func BenchmarkEdit(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		for _, scraped := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/scraped=%v", n, scraped), func(b *testing.B) { benchmarkEdit(b, n, scraped) })
		}
	}
}

func benchmarkEdit(b *testing.B, n int, scraped bool) {
	a := New(min(n, 100_000), first(n), func(slot uint32) Usage { return usage(uint64(slot)) })
	done, ended := make(chan struct{}), make(chan time.Duration)
	go func() {
		longest := time.Duration(0)
		for scraped {
			began := time.Now()
			a.Items()
			longest = max(longest, time.Since(began))
			select {
			case <-done:
				scraped = false
			default:
			}
		}
		ended <- longest
	}()
	var took []time.Duration
	i := 0
	for b.Loop() {
		serial := uint64(n + 1 + i)
		slot := uint32(i%n + 1)
		began := time.Now()
		a.Change(Change{Old: uint64(i + 1)})
		a.Change(Change{New: serial, Slot: slot})
		took = append(took, time.Since(began)/2)
		i++
	}
	close(done)
	longest := <-ended
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
	b.ReportMetric(float64(took[len(took)-1].Nanoseconds()), "max-ns")
	b.ReportMetric(float64(longest.Milliseconds()), "scrape-ms")
}
