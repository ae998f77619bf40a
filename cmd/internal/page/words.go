//go:build linux

package page

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// functions are what templates say figures with.
var functions = template.FuncMap{
	"count": count, "rate": rate, "bits": bits, "size": size, "moment": moment, "clock": clock, "packets": packets, "many": many,
	"state": func(s string) string { return map[string]string{"ok": "good", "warn": "so-so", "fail": "bad"}[s] },
	"left":  func(a api.PoolAddress) int { return max(a.Ports-a.PortsUsed-a.PortsCooling-a.PortsOfHost, 0) },
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

// packets is a rate in words.
func packets(n float64) string {
	if n > 0 && n < 10 {
		return fmt.Sprintf("%.1f\u00a0packets/s", n)
	}
	return scaled(n, 1000, "packets/s", "k\u00a0packets/s", "M\u00a0packets/s")
}

// many is a number of things.
func many(n int, thing string) string {
	number, rest, _ := strings.Cut(words.Count(n, thing), " ")
	return count(number) + "\u00a0" + rest
}

// percent is a part of a whole: 0 and 100 are said of nothing and of all alone.
func percent(part, whole float64) string {
	switch p := part * 100 / whole; {
	case whole <= 0 || part <= 0:
		return "0\u00a0%"
	case part >= whole:
		return "100\u00a0%"
	case p < 0.1:
		return "under 0.1\u00a0%"
	case p > 99.9:
		return "over 99.9\u00a0%"
	case p < 10 || p > 90:
		return fmt.Sprintf("%.1f\u00a0%%", p)
	default:
		return fmt.Sprintf("%.0f\u00a0%%", p)
	}
}

// moment is in UTC, since the reader's clock is unknown without JavaScript.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// clock is a moment of today.
func clock(t time.Time) string { return t.UTC().Format(time.TimeOnly) }

// ago is how long something is, or was.
func ago(d time.Duration) string {
	switch d = d.Truncate(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
