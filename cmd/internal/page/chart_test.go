//go:build linux

package page

import (
	"testing"
	"time"
)

// TestChart: a rate stands where it was in time, not where it was in a row of looks.
func TestChart(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	c := chartOf([]point{{at, at.Add(90 * time.Second), 1e6}, {at.Add(90 * time.Second), at.Add(100 * time.Second), 4e6}})
	if want := "M0.00,24.00L90.00,24.00L90.00,6.00L100.00,6.00"; c.Line != want || c.Most != "5\u00a0Mbit/s" || c.Peak != "4.00\u00a0Mbit/s" || c.Over != "1 min" {
		t.Errorf("%+v, want the line %s", c, want)
	}
	if !c.From.Equal(at) || !c.To.Equal(at.Add(100*time.Second)) {
		t.Errorf("from %v to %v", c.From, c.To)
	}
	// The first moments are not all of time.
	c = chartOf([]point{{at, at.Add(3 * time.Second), 0}})
	if want := "M90.00,30.00L100.00,30.00"; c.Line != want || c.Most != "1\u00a0kbit/s" || c.To.Sub(c.From) != leastWindow {
		t.Errorf("%+v, want the line %s", c, want)
	}
	if c := chartOf(nil); c.Line != "" {
		t.Errorf("of nothing: %+v", c)
	}
	for v, want := range map[float64]float64{0: 1, 1: 1, 1.1: 2, 2.5: 5, 7: 10, 100: 100, 101: 200} {
		if got := roundUp(v); got != want {
			t.Errorf("roundUp(%v) = %v, want %v", v, got, want)
		}
	}
}

func TestPercent(t *testing.T) {
	for want, of := range map[string][2]float64{"0\u00a0%": {0, 5}, "100\u00a0%": {5, 5}, "under 0.1\u00a0%": {1, 1e6}, "over 99.9\u00a0%": {1e6 - 1, 1e6}, "50\u00a0%": {1, 2}, "5.0\u00a0%": {1, 20}, "95.0\u00a0%": {19, 20}} {
		if got := percent(of[0], of[1]); got != want {
			t.Errorf("percent(%v) = %q, want %q", of, got, want)
		}
	}
	if got := percent(0, 0); got != "0\u00a0%" {
		t.Errorf("of nothing %q", got)
	}
}
