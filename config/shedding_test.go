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
		if got := c.Shedding.Of(w.name, w.pool, w.ipv6); got != want {
			t.Errorf("%+v: %+v", w, got)
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
