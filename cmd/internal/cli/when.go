package cli

import (
	"strings"
	"time"
)

// ParseTime reads a time as people write it; empty is the zero time. A clock time
// is the last that there was.
func ParseTime(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04",
		"2006-01-02 15:04:05 MST"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	word, clock, _ := strings.Cut(s, " ")
	switch {
	case word == "now" && clock == "":
		return now, nil
	case word == "yesterday" && clock == "":
		return now.AddDate(0, 0, -1), nil
	case word == "yesterday":
		if t, ok := atClock(clock, now.AddDate(0, 0, -1)); ok {
			return t, nil
		}
	case word == "today":
		if t, ok := atClock(clock, now); ok {
			return t, nil
		}
	}
	if t, ok := atClock(s, now); ok {
		if t.After(now) {
			t, _ = atClock(s, now.AddDate(0, 0, -1))
		}
		return t, nil
	}
	if d, ok := ago(strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(s, "-"), "ago"))); ok {
		return now.Add(-d), nil
	}
	return time.Time{}, Misuse("--at %q: write 15:04, 'yesterday 15:04', '2006-01-02 15:04', 2006-01-02T15:04:05Z, or how long ago, such as 10m",
		s)
}

// atClock is a time of a day.
func atClock(clock string, of time.Time) (time.Time, bool) {
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, clock); err == nil {
			y, m, d := of.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, of.Location()), true
		}
	}
	return time.Time{}, false
}

// ago reads a duration, which may have days: 2d, 1d12h, 90m.
func ago(s string) (time.Duration, bool) {
	days := time.Duration(0)
	if head, rest, ok := strings.Cut(s, "d"); ok {
		d, err := time.ParseDuration(head + "h")
		if err != nil {
			return 0, false
		}
		if days, s = 24*d, rest; s == "" {
			return days, days >= 0
		}
	}
	d, err := time.ParseDuration(s)
	return days + d, err == nil && d >= 0
}
