//go:build linux

package daemon

import (
	"testing"

	"github.com/natless/natless/netstack/fastpath"
)

// What monitor has not seen is all that the fast path has sent on, IPv4 of workloads
// that have it inside among it.
func TestForwarded(t *testing.T) {
	t.Parallel()
	var n fastpath.Counters
	n.Workload[fastpath.Translated].Packets = 1
	n.Uplink[fastpath.Translated].Packets = 10
	n.Inside[fastpath.Translated].Packets = 100
	n.Delivered[fastpath.Translated].Packets = 1000
	n.Given[fastpath.Translated].Packets = 10_000
	if got := forwarded(n); got != 1111 {
		t.Errorf("%d packets, want 1111", got)
	}
}
