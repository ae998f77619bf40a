//go:build linux

package daemon

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/shed"
)

// TestWishOfLabels: a workload that has itself labelled gets the lower limit.
func TestWishOfLabels(t *testing.T) {
	t.Parallel()
	c := &config.Config{Shedding: config.Shedding{Workloads: []config.ShedRule{
		{Name: "shop/*", Priority: config.PriorityCritical, Sent: config.ShedLimits{Packets: 1000}},
		{Labels: config.Labels{"speed": "slow"}, Priority: config.PriorityBatch, Sent: config.ShedLimits{Packets: 10}},
	}}}
	for label, want := range map[string]shed.Wish{
		"slow": {Priority: shed.Batch, Caps: [shed.NumWays]shed.Caps{shed.Sent: {Packets: 10}}},
		"fast": {Priority: shed.Critical, Caps: [shed.NumWays]shed.Caps{shed.Sent: {Packets: 1000}}},
	} {
		a := &registry.Assignment{}
		a.Request.Name, a.Request.Labels = "shop/a", map[string]string{"speed": label}
		a.Request.IPv6 = []netip.Addr{netip.MustParseAddr("2001:db8:6::2")}
		if got := wishFor(c, a); got != want {
			t.Errorf("%s: %+v", label, got)
		}
	}
}
