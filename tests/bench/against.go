//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"
)

// comparison is a figure of a contender in two runs, each round as a part of what the
// kernel's forwarding had in the same round where it was measured: machines have slow hours.
type comparison struct {
	contender, figure string
	before, now       float64 // medians
	verdict, test     string
}

// enough is how many rounds each run needs: with fewer the Mann-Whitney test finds no
// difference at 5 %, however large it is.
const enough = 4

// compare holds a run against an earlier one, by the Mann-Whitney U test.
func compare(before, now *report) (all []comparison) {
	for _, c := range now.Contenders {
		for _, figure := range now.Figures {
			a, b := before.relative(c, figure), now.relative(c, figure)
			if !isNatless(c) || figure == otherWork || len(a) == 0 || len(b) == 0 {
				continue
			}
			x, y := benchmath.NewSample(a, &benchmath.DefaultThresholds), benchmath.NewSample(b, &benchmath.DefaultThresholds)
			result := benchmath.AssumeNothing.Compare(x, y)
			v := comparison{c, figure, median(a), median(b), "noise", result.String()}
			switch {
			case min(len(a), len(b)) < enough:
				v.verdict = "too few rounds"
			case result.P > result.Alpha:
			case (v.now > v.before) == lessIsBetter(figure):
				v.verdict = "worse"
			default:
				v.verdict = "better"
			}
			all = append(all, v)
		}
	}
	return all
}

// lessIsBetter says it of what something costs, takes, or loses.
func lessIsBetter(figure string) bool {
	return slices.ContainsFunc([]string{"CPU", "MB", "rtt", "loss %"}, func(s string) bool { return strings.Contains(figure, s) })
}

// relative is what a contender has of the kernel in each round; as it is where the kernel
// has no such figure.
func (r *report) relative(contender, figure string) []float64 {
	values := slices.Clone(r.Values[contender][figure])
	base := r.Values["kernel"][figure]
	if len(base) == 0 || slices.Contains(base, 0) {
		return values
	}
	values = values[:min(len(values), len(base))]
	for i := range values {
		values[i] /= base[i]
	}
	return values
}

// printAgainst writes what became better and worse since an earlier run.
func printAgainst(w io.Writer, before, now *report) {
	fmt.Fprintln(w, "\nagainst the earlier run, of the kernel's forwarding in the same round where it has the figure;\nMann-Whitney U test at 5 %:")
	if before.Machine != now.Machine {
		fmt.Fprintf(w, "  the machine is another: %+v, it was %+v\n", now.Machine, before.Machine)
	}
	fmt.Fprintf(w, "  other work on the machine: %.1f %%, it was %.1f %%\n\n", now.others(), before.others())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(t, "contender\tfigure\tbefore\tnow\tchange\tverdict\ttest")
	for _, c := range compare(before, now) {
		change := "–"
		if c.before != 0 {
			change = fmt.Sprintf("%+.0f %%", 100*(c.now/c.before-1))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.contender, c.figure, number(c.before), number(c.now), change, c.verdict, c.test)
	}
}
