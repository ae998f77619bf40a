//go:build linux

package monitor

import (
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
)

// TestAll: packets that the kernel translates are not seen, and the viewer says
// so; with --all they take the way through the daemon until nobody looks.
func TestAll(t *testing.T) {
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
	for deadline := time.Now().Add(10 * time.Second); inKernel() == 0; n.send("["+workload6+"]:40000", closed, 100) {
		if time.Now().After(deadline) {
			t.Fatal("the kernel translates nothing")
		}
	}
	some, all := n.watch("monitor", "--rate", "0", "proto udp"), n.start("monitor", "--all", "-n", "3", "--rate", "0", "dir", "6to4", "and", "proto", "udp")
	some.looks(2)
	before := inKernel()
	for range 3 {
		n.send("["+workload6+"]:40000", closed, 100)
	}
	if out, _ := all.wait(); strings.Count(out, "forward4") != 3 {
		t.Errorf("with --all: %s", out)
	}
	if during := inKernel(); during != before {
		t.Errorf("the kernel translated %d packets while somebody wanted to see all", during-before)
	}
	for deadline := time.Now().Add(10 * time.Second); inKernel() == before; n.send("["+workload6+"]:40000", closed, 100) {
		if time.Now().After(deadline) {
			t.Fatal("the kernel translates nothing any more")
		}
	}
	if _, said := some.end(); !strings.Contains(said, "they are not shown; --all shows them") {
		t.Errorf("said %s", said)
	}
}
