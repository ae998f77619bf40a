package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/table"
)

const day = 24 * time.Hour

// scaled is a number in three digits or so: 999, 1.2k, 45M.
func scaled(n float64) string {
	for _, unit := range []string{"", "k", "M", "G", "T", "P"} {
		switch {
		case unit == "" && n < 999.5:
			return strconv.FormatFloat(n, 'f', 0, 64)
		case unit != "" && n < 9.95:
			return strconv.FormatFloat(n, 'f', 1, 64) + unit
		case n < 999.5:
			return strconv.FormatFloat(n, 'f', 0, 64) + unit
		}
		n /= 1000
	}
	return strconv.FormatFloat(n, 'f', 0, 64) + "E"
}

// age is how long ago t was, in the two greatest units that matter.
func age(now, t time.Time) string {
	d := now.Sub(t).Truncate(time.Second)
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// moment is a time for people who compare it with their clock.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

// bar shows shares of a whole: used, cooling down and free.
func bar(width, used, cooling, total int) string {
	marks := []string{"#", "~", "."}
	if table.UTF8() {
		marks = []string{"█", "▒", "░"}
	}
	// What is there at all is seen, however small, as long as there is room.
	cells := func(n, room int) int {
		if n <= 0 || total <= 0 {
			return 0
		}
		return min(max((n*width+total/2)/total, 1), room)
	}
	u := cells(used, width)
	c := cells(cooling, width-u)
	return strings.Repeat(marks[0], u) + strings.Repeat(marks[1], c) + strings.Repeat(marks[2], width-u-c)
}

func percent(n, total int) string {
	if total == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", (n*100+total/2)/total)
}
