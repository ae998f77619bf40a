package config

import (
	"net/netip"
	"strings"
	"testing"
)

const shedHead = "addresses: {ipv4: 198.51.100.1, ipv6: '2001:db8::1'}\npools: [{name: default, ipv4: 203.0.113.0/24}, {name: other, ipv4: 192.0.2.0/24}]\n"

// TestShedding: the first rule that is about a workload holds.
func TestShedding(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte(shedHead + `
shedding:
  workloads:
    - {name: "kube-system/*", priority: critical}
    - {pool: other, priority: batch, sent: {packets: 1000, bits: 1000000, connections: 10}}
    - {ipv6: "2001:db8:7::/64", received: {connections: 5}}
    - {name: "*/*", sent: {packets: 7}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Shedding.Enabled {
		t.Error("not enabled")
	}
	a7, a8 := netip.MustParseAddr("2001:db8:7::2"), netip.MustParseAddr("2001:db8:8::2")
	for _, w := range []struct {
		name, pool string
		ipv6       netip.Addr
		want       int // the rule's index; -1: none
	}{
		{"kube-system/dns", "other", a7, 0},
		{"default/web", "other", a7, 1},
		{"default/web", "default", a7, 2},
		{"", "", a7, 2},
		{"default/web", "default", a8, 3},
		{"web", "default", a8, -1},
	} {
		var want *ShedRule
		if w.want >= 0 {
			want = &c.Shedding.Workloads[w.want]
		}
		if got := c.Shedding.Of(Shedded{Name: w.name, Pool: w.pool, IPv6: w.ipv6}); got != want {
			t.Errorf("%+v: %+v", w, got)
		}
	}
}

// TestSheddingLabels: whatever labels a workload gives itself, in whatever order rules stand, it
// never may bring more than without them.
func TestSheddingLabels(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte(shedHead + `
shedding:
  workloads:
    - {labels: {speed: slow}, priority: batch, sent: {packets: 50, bits: 2000000}}
    - {labels: {speed: fast}, sent: {packets: 5000}}
    - {name: "shop/*", priority: critical, sent: {packets: 1000, connections: 9}}
    - {labels: {speed: slow, app: web}, received: {connections: 3}}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []struct {
		name   string
		labels map[string]string
		want   *ShedRule
	}{
		{"shop/a", nil, &ShedRule{Priority: PriorityCritical, Sent: ShedLimits{Packets: 1000, Connections: 9}}},
		{"shop/a", Labels{"speed": "fast"}, &ShedRule{Priority: PriorityCritical, Sent: ShedLimits{Packets: 1000, Connections: 9}}},
		{"shop/a", Labels{"speed": "slow"}, &ShedRule{Priority: PriorityBatch, Sent: ShedLimits{Packets: 50, Bits: 2_000_000, Connections: 9}}},
		{"shop/a", Labels{"speed": "slow", "app": "web"}, &ShedRule{Priority: PriorityBatch, Sent: ShedLimits{Packets: 50, Bits: 2_000_000, Connections: 9},
			Received: ShedLimits{Connections: 3}}},
		{"a", Labels{"speed": "slow"}, &ShedRule{Priority: PriorityBatch, Sent: ShedLimits{Packets: 50, Bits: 2_000_000}}},
		{"a", Labels{"app": "web"}, nil},
	} {
		got := c.Shedding.Of(Shedded{Name: w.name, Labels: w.labels})
		if (got == nil) != (w.want == nil) || got != nil && (got.Priority != w.want.Priority || got.Sent != w.want.Sent || got.Received != w.want.Received) {
			t.Errorf("%s %v: %+v, want %+v", w.name, w.labels, got, w.want)
		}
	}
}

func TestSheddingRefused(t *testing.T) {
	t.Parallel()
	for rule, want := range map[string]string{
		"{priority: batch}":                                "about nobody",
		"{name: a, pool: default, priority: batch}":        "two kinds",
		"{name: '[', priority: batch}":                     "no pattern",
		"{pool: nowhere, priority: batch}":                 "no pool",
		"{name: a, priority: high}":                        `"high" is none of batch, normal, critical`,
		"{labels: {a: b}, name: a, priority: batch}":       "two kinds",
		"{labels: {a: b}, priority: critical}":             "sooner and not later",
		"{labels: {a: b}, priority: normal}":               "sooner and not later",
		"{labels: {}, priority: batch}":                    "about nobody",
		"{name: a}":                                        "says nothing",
		"{name: a, sent: {packets: -1}}":                   "sent.packets",
		"{name: a, received: {bits: 100}}":                 "received.bits",
		"{name: a, received: {conections: 100}}":           "conections",
		"{ipv6: 192.0.2.0/24, priority: batch}":            "no IPv6 prefix",
		"{ipv6: '2001:db8::1/64', received: {packets: 1}}": "bits beyond its length",
	} {
		_, err := Parse([]byte(shedHead + "shedding: {workloads: [" + rule + "]}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", rule, err, want)
		}
	}
}
