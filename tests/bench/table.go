//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// row is one line of README's table.
type row struct {
	title   string
	figures []string
	cell    func(own, base float64) string
}

var rows = []row{
	{"TCP, one stream, out and back", []string{"tcp Gb/s", "tcp reverse Gb/s"}, part},
	{"TCP, eight streams, out and back", []string{"tcp 8 Gb/s", "tcp 8 reverse Gb/s"}, part},
	{"CPU seconds per GB, whole machine, one stream out", []string{"tcp CPU-s/GB"}, part},
	{"UDP of 18 bytes, at most 0.1 % lost", []string{"udp 18 B kpps"}, part},
	{"round trip, median", []string{"rtt p50 µs"}, added},
	{"round trip beside a TCP stream, median", []string{"rtt loaded p50 µs"}, part},
}

func part(own, base float64) string { return fmt.Sprintf("%.2f", own/base) }

func added(own, base float64) string { return fmt.Sprintf("%+.0f µs", own-base) }

// printTable writes README's table, relative to the kernel's forwarding, of the ways of
// natless and the loop, and below it what other work the machine had meanwhile.
func (r *report) printTable(w io.Writer) {
	columns := slices.DeleteFunc(slices.Clone(r.Contenders), func(c string) bool { return !isNatless(c) && c != tunLoop })
	if len(columns) == 0 || r.Medians["kernel"] == nil {
		return
	}
	fmt.Fprintf(w, "\n| | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range rows {
		cells := []string{row.title}
		for _, c := range columns {
			cells = append(cells, r.cell(row, c))
		}
		if strings.Trim(strings.Join(cells[1:], ""), "–") != "" {
			fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	fmt.Fprintf(w, "\nOther work had %.1f %% of the machine meanwhile, in the median (%s); %d rounds.\n", r.others(), r.othersBy(), r.rounds())
}

func (r *report) cell(row row, contender string) string {
	var values []string
	for _, figure := range row.figures {
		own, base := r.Medians[contender][figure], r.Medians["kernel"][figure]
		if own == 0 || base == 0 {
			return "–"
		}
		values = append(values, row.cell(own, base))
	}
	return strings.Join(values, ", ")
}

// others is the median of what was done meanwhile by none of ours, in percent of the machine.
func (r *report) others() float64 {
	var all []float64
	for _, c := range r.Contenders {
		all = append(all, r.Values[c][otherWork]...)
	}
	return median(all)
}

// othersBy is the same by contender.
func (r *report) othersBy() string {
	var all []string
	for _, c := range r.Contenders {
		all = append(all, fmt.Sprintf("%s %.1f", c, r.Medians[c][otherWork]))
	}
	return strings.Join(all, ", ")
}

func (r *report) rounds() int { return len(r.Values["kernel"][otherWork]) }
