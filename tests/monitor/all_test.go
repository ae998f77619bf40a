//go:build linux

package monitor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
)

// TestFastPath: packets that the kernel translates are seen as a sample, all of them where
// they are few, with no further flag, and the reader learns it; with --all all take the
// way through the daemon until nobody looks; who wants drops only, or not to disturb,
// changes nothing.
func TestFastPath(t *testing.T) {
	n := newTopology(t)
	n.daemon.Stop()
	n.daemon = daemon.Start(t, n.host, strings.Replace(configuration, seen, "fast_path: required\n", 1))
	inKernel := func() uint64 {
		s, err := n.daemon.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.FastPath.Translated["forward4"].Packets
	}
	send := func() { n.send("["+workload6+"]:40000", closed, 100) }
	inKernelAgain := func() {
		t.Helper()
		before := inKernel()
		within(t, "the kernel translates", func() bool { send(); return inKernel() > before })
	}
	inKernelAgain()
	watch := func(words ...string) *viewer {
		t.Helper()
		v := n.watch(words...)
		if !slices.Contains(words, "--all") && !slices.Contains(words, "--drops") && !strings.Contains(v.errors.String(), "note: ") {
			t.Errorf("%s: no note of the fast path: %s", words, v.errors.String())
		}
		return v
	}

	// A few packets: all are seen, and none is said not to be.
	v := watch("monitor", "--rate", "0", "dir 6to4 and proto udp")
	before := inKernel()
	for range 3 {
		send()
	}
	within(t, "three packets are seen", func() bool { return strings.Count(v.out.String(), "forward4") >= 3 })
	if during := inKernel(); during != before {
		t.Errorf("the kernel translated %d packets while few came", during-before)
	}
	if _, said := v.end(); !strings.Contains(said, "up to 1000 a second take the way through the daemon") || strings.Contains(said, "nobody saw") {
		t.Errorf("said %s", said)
	}
	inKernelAgain()

	// Many: a sample, and how many were not seen.
	v = watch("monitor", "--rate", "0", "dir 6to4 and proto udp")
	before = inKernel()
	began := time.Now()
	within(t, "the kernel translates what is too much", func() bool {
		n.flood(1000, 100)
		return inKernel() > before+2000 && strings.Count(v.out.String(), "forward4") >= 100 &&
			time.Since(began) > time.Second
	})
	grown, size := time.Now(), 0
	within(t, "what was seen is shown, and what was not is told", func() bool { // ten times a second
		if now := len(v.out.String()); now != size {
			grown, size = time.Now(), now
		}
		return time.Since(grown) > time.Second
	})
	out, said := v.end()
	many := inKernel() - before
	if shown := strings.Count(out, "forward4"); shown < 100 || many < 2000 || !strings.Contains(said, "more that nobody saw") {
		t.Errorf("%d shown, %d in the kernel; said %s", shown, many, said)
	}
	inKernelAgain()

	all := watch("monitor", "--all", "-n", "3", "--rate", "0", "dir", "6to4", "and", "proto", "udp")
	before = inKernel()
	for range 3 {
		send()
	}
	if out, said := all.wait(); strings.Count(out, "forward4") != 3 || strings.Contains(said, "fast path") {
		t.Errorf("with --all: %s%s", out, said)
	}
	if during := inKernel(); during != before {
		t.Errorf("the kernel translated %d packets while somebody wanted to see all", during-before)
	}
	inKernelAgain()

	for words, note := range map[string]string{"--drops": "", "--undisturbed": "they are not shown"} {
		v := watch("monitor", words)
		inKernelAgain()
		if _, said := v.end(); !strings.Contains(said, note) || note == "" && strings.Contains(said, "note:") {
			t.Errorf("%s: said %s", words, said)
		}
	}
}
