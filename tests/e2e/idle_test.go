//go:build linux

package e2e

import (
	"testing"
	"time"
)

// An idle daemon is small and sleeps.
func TestIdle(t *testing.T) {
	n := newTopology(t)
	for _, s := range n.streams() { // it has worked before
		s.Flows(10 * time.Second)
		s.Finish()
	}
	time.Sleep(6 * time.Second)
	const span = 10 * time.Second
	before := switches(t, n.daemon.PID())
	time.Sleep(span)
	wakeups := switches(t, n.daemon.PID()) - before
	status := proc(t, n.daemon.PID(), "status")
	anon, rss := field(t, status, "RssAnon:"), field(t, status, "VmRSS:")
	t.Logf("idle: %d kB resident, %d kB of it its own, %d wake-ups in %v", rss, anon, wakeups, span)
	// The rest is pages of the program itself, of which the kernel keeps as many as it likes.
	if anon >= 16<<10 {
		t.Errorf("%d kB of its own, want less than 16 MB", anon)
	}
	if wakeups > 10 {
		t.Errorf("%d wake-ups in %v: something polls", wakeups, span)
	}
}
