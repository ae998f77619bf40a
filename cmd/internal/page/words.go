//go:build linux

package page

import (
	"fmt"
	"html/template"
	"strings"
	"time"
)

// words are what templates say figures with.
var words = template.FuncMap{
	"count": count, "rate": rate, "bits": bits, "size": size, "line": line, "moment": moment,
	"state": func(s string) string { return map[string]string{"ok": "good", "warn": "so-so", "fail": "bad"}[s] },
	"sub":   func(a, b int) int { return a - b },
}

// count is a whole number, not negative, with its thousands apart.
func count(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// scaled is a figure with three digits or so.
func scaled(n float64, step float64, units ...string) string {
	i := 0
	for n >= step && i < len(units)-1 {
		n /= step
		i++
	}
	format := "%.0f"
	if n < 10 && i > 0 {
		format = "%.2f"
	} else if n < 100 && i > 0 {
		format = "%.1f"
	}
	return fmt.Sprintf(format+"\u00a0%s", n, units[i])
}

func bits(n float64) string { return scaled(n, 1000, "bit/s", "kbit/s", "Mbit/s", "Gbit/s") }
func size(n uint64) string  { return scaled(float64(n), 1000, "B", "kB", "MB", "GB", "TB") }

func rate(n float64) string {
	if n > 0 && n < 10 {
		return fmt.Sprintf("%.1f\u00a0/s", n)
	}
	return scaled(n, 1000, "/s", "k/s", "M/s")
}

// line is the points of a polyline through values, 100 wide and 28 high.
func line(values []float64) string {
	if len(values) < 2 {
		return ""
	}
	most := 1.0
	for _, v := range values {
		most = max(most, v)
	}
	points := make([]string, len(values))
	for i, v := range values {
		points[i] = fmt.Sprintf("%.1f,%.1f", float64(i)*100/float64(len(values)-1), 27-26*v/most)
	}
	return strings.Join(points, " ")
}

// moment is in UTC, since the reader's clock is unknown without JavaScript.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func ago(d time.Duration) string {
	switch d = d.Truncate(time.Second); {
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
