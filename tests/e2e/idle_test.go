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
	rss := field(t, proc(t, n.daemon.PID(), "status"), "VmRSS:")
	t.Logf("idle: %d kB resident, %d wake-ups in %v", rss, wakeups, span)
	if rss >= 30<<10 {
		t.Errorf("%d kB resident, want less than 30 MB", rss)
	}
	if wakeups > 10 {
		t.Errorf("%d wake-ups in %v: something polls", wakeups, span)
	}
}
