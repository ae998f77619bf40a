//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// goal is a figure to be reached, counted from the medians of a way of natless
// and of what it is held against.
type goal struct {
	figure  string
	of      func(contender string) bool
	against func(r *report) []string // contenders; the best of them counts
	value   func(own, other map[string]float64) float64
	want    float64
	most    bool // the value may be at most what is wanted, not at least
}

// reached is what came of a goal.
type reached struct {
	Contender string  `json:"contender"`
	Figure    string  `json:"figure"`
	Value     float64 `json:"value"`
	Goal      string  `json:"goal"`
	OK        bool    `json:"ok"`
}

// ratioOf is what the contender has of the other, in the worst of the figures.
func ratioOf(figures ...string) func(own, other map[string]float64) float64 {
	return func(own, other map[string]float64) float64 {
		worst := math.Inf(1)
		for _, figure := range figures {
			worst = min(worst, own[figure]/other[figure])
		}
		return worst
	}
}

var goals = []goal{
	{"TCP, one stream, of kernel forwarding", userSpace, kernel, ratioOf("tcp Gb/s", "tcp reverse Gb/s"), 0.75, false},
	{"TCP, eight streams, of kernel forwarding", userSpace, kernel, ratioOf("tcp 8 Gb/s", "tcp 8 reverse Gb/s"), 0.65, false},
	{"UDP of 18 bytes, at most 0.1 % lost, of kernel forwarding", userSpace, kernel, ratioOf("udp 18 B kpps"), 0.85, false},
	{"added to kernel forwarding's median round trip, µs", userSpace, kernel, func(own, other map[string]float64) float64 {
		return own["rtt p50 µs"] - other["rtt p50 µs"]
	}, 20, true},
	{"median round trip beside a TCP stream, times the kernel's", isNatless, kernel, func(own, other map[string]float64) float64 {
		return own["rtt loaded p50 µs"] / other["rtt loaded p50 µs"]
	}, 2, true},
	{"TCP, one and eight streams, of kernel forwarding", fastPath, kernel,
		ratioOf("tcp Gb/s", "tcp reverse Gb/s", "tcp 8 Gb/s", "tcp 8 reverse Gb/s"), 1, false},
	{"UDP of 18 bytes, at most 0.1 % lost, of kernel forwarding", fastPath, kernel, ratioOf("udp 18 B kpps"), 1, false},
	{"TCP, one stream, times the best packet-at-a-time peer", isNatless, others, ratioOf("tcp Gb/s", "tcp reverse Gb/s"), 8, false},
	{"UDP of 18 bytes, at most 0.1 % lost, times tayga", isNatless, tayga, ratioOf("udp 18 B kpps"), 2.5, false},
}

func kernel(*report) []string { return []string{"kernel"} }

func tayga(*report) []string { return []string{"tayga"} }

func others(r *report) []string {
	return slices.DeleteFunc(slices.Clone(r.Contenders), func(c string) bool { return c == "kernel" || c == tunLoop || isNatless(c) })
}

func isNatless(c string) bool { return strings.HasPrefix(c, "natless") }

func fastPath(c string) bool { return isNatless(c) && strings.Contains(c, "fast") }

func userSpace(c string) bool { return isNatless(c) && !fastPath(c) }

// reach holds every way of natless against the goals, as far as was measured.
func (r *report) reach() {
	for _, c := range r.Contenders {
		for _, g := range goals {
			if !g.of(c) {
				continue
			}
			if value, ok := g.worst(r, c); ok {
				word := "≥"
				if g.most {
					word = "≤"
				}
				r.Reached = append(r.Reached, reached{c, g.figure, value, fmt.Sprintf("%s %v", word, g.want), (value <= g.want) == g.most || value == g.want})
			}
		}
	}
}

// worst is the value against the best of the others.
func (g goal) worst(r *report, c string) (worst float64, ok bool) {
	for _, other := range g.against(r) {
		v := g.value(r.Medians[c], r.Medians[other])
		if r.Medians[other] == nil || math.IsNaN(v) || math.IsInf(v, 0) || v == 0 {
			continue
		}
		if !ok || v < worst {
			worst, ok = v, true
		}
	}
	return worst, ok
}

func (r *report) printReached(w io.Writer) {
	if r.Reached == nil {
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(t, "figure\tcontender\treached\tgoal\tverdict")
	for _, v := range r.Reached {
		verdict := "missed"
		if v.OK {
			verdict = "ok"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Figure, v.Contender, number(v.Value), v.Goal, verdict)
	}
}
