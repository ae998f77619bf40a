package conformance

import (
	"testing"
	"time"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// coverage counts what a run has met.
type coverage struct {
	verdicts map[translator.Verdict]int
	rules    map[string]int
}

func newCoverage() *coverage {
	return &coverage{map[translator.Verdict]int{}, map[string]int{}}
}

func (c *coverage) add(p *pair) {
	for rule, n := range p.slow.Rules {
		c.rules[rule] += n
	}
}

// packetsPerWorld and direction of the deterministic run.
const packetsPerWorld = 12_000

// run compares one packet after the other; of the differences of one kind it
// reports the first.
type run struct {
	*testing.T
	*pair
	*generate.Generator
	seen  *coverage
	kinds map[string]bool
	now   int64
}

func (r *run) check(in reference.Packet) result {
	r.Helper()
	got, err := r.pair.check(in)
	r.seen.verdicts[got.verdict]++
	if err != nil {
		if d := err.(*difference); !r.kinds[d.kind] {
			r.kinds[d.kind] = true
			r.Error(d)
		}
	}
	return got
}

// wait lets time pass: never so that a limit is met to the nanosecond.
func (r *run) wait(d time.Duration) {
	r.now += int64(d)
	r.setTime(r.now)
}

// datagram sends a datagram in fragments.
func (r *run) datagram() {
	for _, piece := range r.Datagram() {
		r.check(piece)
		switch r.IntN(30) {
		case 0:
			r.wait(1500 * time.Millisecond) // what is held is forgotten
		case 1:
			r.wait(31 * time.Second) // so is everything
		}
	}
	r.wait(time.Millisecond)
}

// ping sends an echo request and the answer to what became of it.
func (r *run) ping() {
	got := r.check(r.Ping())
	if got.verdict != translator.Forward4 && got.verdict != translator.Hairpin || len(got.packets) != 1 {
		return
	}
	if b := got.packets[0].Bytes; b[0]>>4 == 6 && b[6] == 58 || b[0]>>4 == 4 && b[9] == 1 {
		r.check(r.Pong(got.packets[0]))
	}
}

// TestDifferential translates generated packets with both translators.
func TestDifferential(t *testing.T) {
	seen := newCoverage()
	for i, w := range generate.Worlds() {
		t.Run(w.Name, func(t *testing.T) {
			r := &run{T: t, pair: newPair(t, w), Generator: generate.New(w, uint64(i)), seen: seen, kinds: map[string]bool{}, now: 1}
			for n := range packetsPerWorld {
				r.check(r.Next4())
				r.check(r.Next6())
				switch n % 40 {
				case 0:
					r.datagram()
				case 20:
					r.ping()
				}
			}
			seen.add(r.pair)
		})
	}
	if t.Failed() {
		return
	}
	for v := range translator.NumVerdicts {
		if seen.verdicts[v]+seen.verdicts[v|translator.Replied] == 0 {
			t.Errorf("no packet got the verdict %v", v)
		}
	}
	for _, rule := range reference.RuleNames() {
		if seen.rules[rule] == 0 && rule != "1.3.held-bound" { // TestHeldBound has it
			t.Errorf("no packet came under rule %s", rule)
		}
	}
	total := 0
	for _, n := range seen.verdicts {
		total += n
	}
	t.Logf("%d packets: %v", total, seen.verdicts)
	if total < 200_000 {
		t.Errorf("%d packets are too few", total)
	}
}
