package conformance

import (
	"testing"

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

// TestDifferential translates generated packets with both translators.
func TestDifferential(t *testing.T) {
	seen := newCoverage()
	for i, w := range generate.Worlds() {
		t.Run(w.Name, func(t *testing.T) {
			p := newPair(t, w)
			g := generate.New(w, uint64(i))
			kinds := map[string]bool{}
			for n := range packetsPerWorld {
				for _, in := range []reference.Packet{g.Next4(), g.Next6()} {
					r, err := p.check(in)
					seen.verdicts[r.verdict]++
					if err != nil {
						if d := err.(*difference); !kinds[d.kind] {
							kinds[d.kind] = true
							t.Errorf("packet %d: %v", n, d)
						}
					}
				}
			}
			seen.add(p)
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
	t.Log(seen.verdicts)
}
