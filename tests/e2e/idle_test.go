//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An idle daemon is small and sleeps.
func TestIdle(t *testing.T) {
	n := newTopology(t)
	for _, s := range n.streams() { // it has worked before
		s.flows(10 * time.Second)
		s.finish()
	}
	time.Sleep(6 * time.Second)
	const span = 10 * time.Second
	before := switches(t, n.daemon.PID())
	time.Sleep(span)
	wakeups := switches(t, n.daemon.PID()) - before
	rss := status(t, fmt.Sprintf("/proc/%d/status", n.daemon.PID()), "VmRSS:")
	t.Logf("idle: %d kB resident, %d wake-ups in %v", rss, wakeups, span)
	if rss >= 30<<10 {
		t.Errorf("%d kB resident, want less than 30 MB", rss)
	}
	if wakeups > 10 {
		t.Errorf("%d wake-ups in %v: something polls", wakeups, span)
	}
}

// switches is how often the threads of a process went to sleep.
func switches(t *testing.T, pid int) (sum int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, task := range tasks {
		sum += status(t, task, "voluntary_ctxt_switches:")
	}
	return sum
}

func status(t *testing.T, path, key string) (value int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			fmt.Sscan(rest, &value)
		}
	}
	return value
}
