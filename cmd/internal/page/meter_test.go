//go:build linux

package page

import (
	"iter"
	"testing"
	"time"

	"github.com/natless/natless/netstack/accounting"
)

// TestMeterPatience: who looks does not wait for a kernel that takes its time, and
// there is one reading at a time, and a rest behind it.
func TestMeterPatience(t *testing.T) {
	m, at := meter{patience: time.Nanosecond}, time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	readings, goOn := 0, make(chan struct{})
	slow := func() iter.Seq2[uint64, accounting.Usage] {
		readings++
		return func(yield func(uint64, accounting.Usage) bool) {
			<-goOn
			yield(7, accounting.Usage{Violations: uint64(readings)})
		}
	}
	close(goOn)
	if p := m.look(at, slow); len(p.all) != 1 || p.seconds != 0 { // the first waits
		t.Fatalf("at first %+v", p)
	}
	goOn = make(chan struct{})
	for range 3 { // others do not, and there is what was before
		if p := m.look(at.Add(2*time.Second), slow); len(p.all) != 1 || p.all[0].Violations != 1 {
			t.Fatalf("meanwhile %+v", p)
		}
	}
	m.mu.Lock()
	done := m.reading
	m.mu.Unlock()
	close(goOn)
	<-done
	if p := m.look(at.Add(2500*time.Millisecond), nil); readings != 2 || p.seconds != 2 || p.all[0].Violations != 2 || p.all[0].RefusedRate != .5 {
		t.Errorf("after %d readings %+v", readings, p)
	}
	m.cost = time.Second // then there is none for ten
	if m.look(at.Add(11*time.Second), nil); m.reading != nil {
		t.Error("no rest")
	}
	m.clear()
	if m.last.all != nil || m.pair.all != nil {
		t.Error("it does not forget")
	}
}
