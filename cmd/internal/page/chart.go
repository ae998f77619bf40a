//go:build linux

package page

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// A chart's picture is this wide and high; what stands at its axes is text beside it.
const chartWidth, chartHeight = 100, 30

// leastWindow is the time that a chart spans at least, so that the first moments do
// not look like a history.
const leastWindow = 30 * time.Second

// whole takes from the end of an axis what is always nothing.
var whole = strings.NewReplacer(".00", "", ".0", "")

// leastAxis is what the axis goes to at least, so that silence does not look like a lot.
const leastAxis = 1000

// point is a rate over a time.
type point struct {
	from, to time.Time
	value    float64
}

// chart is rates over time.
type chart struct {
	Line, Area string // SVG paths; empty: there is nothing to show yet
	Most       string // at the upper end of the axis
	From, To   time.Time
	Over       string // how long that is
	Peak       string
}

// chartOf draws rates by the time at which they were, each as long as it was.
func chartOf(line []point) (c chart) {
	if len(line) == 0 {
		return c
	}
	c.To = line[len(line)-1].to
	c.From = line[0].from
	if c.To.Sub(c.From) < leastWindow {
		c.From = c.To.Add(-leastWindow)
	}
	peak := 0.0
	for _, p := range line {
		peak = max(peak, p.value)
	}
	most := roundUp(max(peak, leastAxis))
	x := func(t time.Time) float64 { return chartWidth * t.Sub(c.From).Seconds() / c.To.Sub(c.From).Seconds() }
	y := func(v float64) float64 { return chartHeight * (1 - v/most) }
	var b strings.Builder
	for i, p := range line {
		command := "L"
		if i == 0 {
			command = "M"
		}
		fmt.Fprintf(&b, "%s%.2f,%.2fL%.2f,%.2f", command, x(p.from), y(p.value), x(p.to), y(p.value))
	}
	c.Line = b.String()
	c.Area = fmt.Sprintf("%sL%.2f,%dL%.2f,%dZ", c.Line, x(c.To), chartHeight, x(line[0].from), chartHeight)
	c.Most, c.Peak, c.Over = whole.Replace(bits(most)), bits(peak), ago(c.To.Sub(c.From))
	return c
}

// roundUp is the next 1, 2 or 5 with zeros behind it.
func roundUp(v float64) float64 {
	if v <= 1 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if v <= n*unit {
			return n * unit
		}
	}
	return 10 * unit
}
