//go:build linux

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// sitting is a run on a machine whose speed differs from round to round.
func sitting(machine float64, figures map[string][]float64) *report {
	r := newReport()
	for i := range 5 {
		speed := machine * (1 + float64(i)/3)
		r.add("kernel", "tcp Gb/s", 10*speed)
		r.add("kernel", "rtt p50 µs", 30*speed)
		r.add("kernel", otherWork, 2)
		for figure, values := range figures {
			if i < len(values) {
				v := values[i]
				if figure != "memory MB" {
					v *= speed
				}
				r.add("natless", figure, v)
			}
		}
	}
	return r
}

// TestAgainst: a slower machine is no difference, a slower natless is one, and of too few
// rounds nothing is said.
func TestAgainst(t *testing.T) {
	before := sitting(1, map[string][]float64{"tcp Gb/s": {6, 6.1, 5.9, 6.2, 6}, "rtt p50 µs": {60, 61, 59, 62, 60},
		"memory MB": {30, 31, 30, 31, 30}, "tcp 8 Gb/s": {1, 1, 1}, "udp 18 B kpps": {5, 4, 6, 5, 5}})
	now := sitting(0.5, map[string][]float64{"tcp Gb/s": {7, 7.1, 6.9, 7.2, 7}, "rtt p50 µs": {70, 71, 69, 72, 70},
		"memory MB": {20, 21, 20, 21, 20}, "tcp 8 Gb/s": {9, 9, 9}, "udp 18 B kpps": {10, 8, 12, 10, 10}})
	var got []string
	for _, c := range compare(before, now) {
		got = append(got, c.figure+": "+c.verdict)
	}
	slices.Sort(got)
	want := []string{"memory MB: better", "rtt p50 µs: worse", "tcp 8 Gb/s: too few rounds", "tcp Gb/s: better", "udp 18 B kpps: noise"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if all := compare(before, before); slices.ContainsFunc(all, func(c comparison) bool { return c.verdict == "better" || c.verdict == "worse" }) {
		t.Errorf("a run against itself: %+v", all)
	}
	var out bytes.Buffer
	printAgainst(&out, before, now)
	for _, want := range []string{"Mann-Whitney", "worse", "p=0.008", "machine: 2.0 %, it was 2.0 %"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}
