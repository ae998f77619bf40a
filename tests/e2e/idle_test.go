//go:build linux

package e2e

import (
	"testing"
	"time"
)

// An idle daemon is small and sleeps.
func TestIdle(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	for _, s := range n.streams() { // it has worked before
		s.Flows(10 * time.Second)
		s.Finish()
	}
	time.Sleep(6 * time.Second)
	// The fast path looks at the host every ten seconds, which on a busy machine
	// wakes several threads: of four spans, two are without.
	const span = 4 * time.Second
	wakeups := 1 << 30
	for range 4 {
		before := switches(t, n.daemon.PID())
		time.Sleep(span)
		if wakeups = min(wakeups, switches(t, n.daemon.PID())-before); wakeups <= 4 {
			break
		}
	}
	status := proc(t, n.daemon.PID(), "status")
	anon, rss := field(t, status, "RssAnon:"), field(t, status, "VmRSS:")
	t.Logf("idle: %d kB resident, %d kB of it its own, %d wake-ups in %v", rss, anon, wakeups, span)
	// The rest is pages of the program itself, of which the kernel keeps as many as it likes.
	if anon >= 16<<10 {
		t.Errorf("%d kB of its own, want less than 16 MB", anon)
	}
	if wakeups > 4 {
		t.Errorf("%d wake-ups in %v: something polls", wakeups, span)
	}
}
