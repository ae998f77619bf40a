//go:build linux

package page

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
)

// Samples are taken when somebody looks, so that nobody pays for a page that
// nobody sees; who goes on looking sees a line of them.
const (
	keep      = 60
	leastSpan = 500 * time.Millisecond
	longest   = 2 * time.Minute // a rate over more says nothing of now
)

// recent is what was counted at the last views.
type recent struct {
	mu      sync.Mutex
	samples []sample
}

type sample struct {
	at     time.Time
	counts dataplane.Snapshot
}

// look takes a sample unless the last one is too young, and gives all.
func (r *recent) look(now time.Time, counts func() dataplane.Snapshot) []sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.samples); n > 0 && now.Sub(r.samples[n-1].at) > longest {
		r.samples = nil
	}
	if n := len(r.samples); n == 0 || now.Sub(r.samples[n-1].at) >= leastSpan {
		r.samples = append(r.samples, sample{now, counts()})
	}
	if len(r.samples) > keep {
		r.samples = slices.Delete(r.samples, 0, len(r.samples)-keep)
	}
	return slices.Clone(r.samples)
}

// direction is the translated traffic of one direction.
type direction struct {
	Name           string
	Packets, Bytes uint64
	PacketRate     float64 // a second, over the last two samples
	BitRate        float64
	Known          bool      // whether there were two samples
	Line           []float64 // bits a second, oldest first
}

// reason is one way to be dropped.
type reason struct {
	Name, Meaning string
	Packets       uint64
	Rate          float64
}

func translated(s *dataplane.Snapshot, d dataplane.Direction) (n dataplane.Count) {
	for v := translator.Forward4; v <= translator.Hairpin; v++ {
		n.Packets += s.Verdicts[d][v].Packets
		n.Bytes += s.Verdicts[d][v].Bytes
	}
	return n
}

func directions(samples []sample) []direction {
	last := &samples[len(samples)-1]
	out := make([]direction, dataplane.NumDirections)
	for d := range dataplane.NumDirections {
		n := translated(&last.counts, d)
		o := &out[d]
		o.Name, o.Packets, o.Bytes = d.String(), n.Packets, n.Bytes
		for i := range samples[1:] {
			from, to := &samples[i], &samples[i+1]
			seconds := to.at.Sub(from.at).Seconds()
			before, after := translated(&from.counts, d), translated(&to.counts, d)
			o.Known = true
			o.PacketRate = float64(after.Packets-before.Packets) / seconds
			o.BitRate = float64(after.Bytes-before.Bytes) * 8 / seconds
			o.Line = append(o.Line, o.BitRate)
		}
	}
	return out
}

// drops are those that happened, the most frequent now first.
func (p *Page) drops(samples []sample) []reason {
	last := samples[len(samples)-1]
	before := samples[max(len(samples)-2, 0)]
	seconds := last.at.Sub(before.at).Seconds()
	var out []reason
	for v := translator.Malformed; v < translator.NumVerdicts; v++ {
		var now, then uint64
		for d := range dataplane.NumDirections {
			now += last.counts.Verdicts[d][v].Packets
			then += before.counts.Verdicts[d][v].Packets
		}
		if now == 0 {
			continue
		}
		r := reason{Name: v.String(), Meaning: p.Meaning(v), Packets: now}
		if seconds > 0 {
			r.Rate = float64(now-then) / seconds
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b reason) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(b.Packets, a.Packets))
	})
	return out
}
