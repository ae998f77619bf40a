//go:build linux

package dataplane

import (
	"testing"

	"github.com/natless/natless/translator"
)

// What a sample has enough of is counted of all that the fast path leaves to the daemon
// meanwhile, IPv4 of workloads that have it inside among it.
func TestTranslated(t *testing.T) {
	t.Parallel()
	l := &loop{Driver: Driver{counters: new(counters)}}
	d := &Dataplane{loops: []*loop{l}}
	l.counters.add(To4, translator.Forward4, 100)
	l.counters.add(To6, translator.Forward6, 100)
	l.counters.add(Across, translator.Pass4, 100)
	l.counters.add(Across, translator.Deliver4, 100)
	l.counters.add(To4, translator.Malformed, 100)
	if n := d.Translated(); n != 4 {
		t.Errorf("%d packets, want 4", n)
	}
}
