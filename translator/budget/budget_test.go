package budget

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

var rate = Rate{PerSecond: 100, Burst: 50}

// within says that n is what a budget gives, give or take its jitter.
func within(t *testing.T, what string, n, want int) {
	t.Helper()
	if n < want*3/4-6 || n > want*3/2+6 {
		t.Errorf("%s: %d, want about %d", what, n, want)
	}
}

func TestBucket(t *testing.T) {
	var b Bucket
	now := int64(7e18)
	flood := func(step int64, n int) (passed int) {
		for range n {
			now += step
			if b.Take(now, rate, rand.Uint64()) {
				passed++
			}
		}
		return passed
	}
	within(t, "burst", flood(0, 1000), 50)
	if n := flood(0, 1000); n != 0 {
		t.Errorf("%d from an empty bucket", n)
	}
	within(t, "ten seconds of a thousand a second", flood(1e6, 10_000), 1000)
	now += 60e9
	within(t, "burst after a pause", flood(0, 1000), 50)
}

// TestFirstPasses: whoever has not asked for long is never refused, however
// small the budget.
func TestFirstPasses(t *testing.T) {
	r := Rate{PerSecond: 1, Burst: 1}
	now := int64(0)
	var b Bucket
	var s Shares
	for range 10_000 {
		now += 5e9
		if x := rand.Uint64(); !b.Take(now, r, x) || !s.Take(77, now, r, x) {
			t.Fatal("refused")
		}
	}
}

// TestJitter: how many pass is not the same each time, so that who counts his
// own learns nothing of another's.
func TestJitter(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		var s Shares
		n := 0
		for range 200 {
			if s.Take(1, 0, rate, rand.Uint64()) {
				n++
			}
		}
		seen[n] = true
	}
	if len(seen) < 5 {
		t.Errorf("only %d different bursts in 200 tries", len(seen))
	}
}

// TestFloodLeavesOthers is the property that this package is for: of ten
// thousand askers who keep well within their rate nobody is refused anything
// while one floods, and while ten do at most a few; the flooders have theirs.
func TestFloodLeavesOthers(t *testing.T) {
	for flooders, most := range map[int]int{1: 0, 10: 3} {
		var s Shares
		key := rand.Uint64() | 1
		hash := func(asker int) uint64 { // as good as a keyed one against nobody
			x := (uint64(asker) + key) * 0x9e3779b97f4a7c15
			x ^= x >> 31
			x *= 0xbf58476d1ce4e5b9
			return x ^ x>>29
		}
		now, passed, starved := int64(0), 0, map[int]bool{}
		const askers, seconds, perMillisecond = 10_000, 2, 10
		for range seconds * 1000 {
			now += 1e6
			for range perMillisecond {
				for f := range flooders {
					if s.Take(hash(-1-f), now, rate, rand.Uint64()) {
						passed++
					}
				}
			}
			for range perMillisecond { // ten thousand a second of all: one of each
				if asker := rand.IntN(askers); !s.Take(hash(asker), now, rate, rand.Uint64()) {
					starved[asker] = true
				}
			}
		}
		if len(starved) > most {
			t.Errorf("%d flood: %d of %d others were refused something", flooders, len(starved), askers)
		}
		within(t, "passed of the floods", passed, flooders*(50+100*seconds))
	}
}

// TestConcurrent: goroutines that take together get no more than one would.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	var b Bucket
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10_000 {
				if b.Take(0, rate, rand.Uint64()) {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	within(t, "burst of eight", int(passed.Load()), 50)
}

func TestNoAllocs(t *testing.T) {
	s := new(Shares)
	if n := testing.AllocsPerRun(1000, func() { s.Take(rand.Uint64(), 1, rate, rand.Uint64()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkShares(b *testing.B) {
	s := new(Shares)
	now := int64(0)
	for b.Loop() {
		now += 1000
		s.Take(12345, now, rate, rand.Uint64())
	}
}
