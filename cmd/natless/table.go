package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// printJSON is every command's answer for programs.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// table writes columns, the first row being the header. Without rows it says
// so in words. What a line has behind its last word is left out. It is not
// text/tabwriter, which takes a second for fifty thousand lines.
func table(w io.Writer, none string, header []string, rows [][]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	widths := make([]int, len(header))
	measure := func(row []string) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	measure(header)
	for _, row := range rows {
		measure(row)
	}
	out := bufio.NewWriterSize(w, 64<<10)
	line := make([]byte, 0, 256)
	write := func(row []string) {
		line = line[:0]
		for i, cell := range row {
			line = append(line, cell...)
			for n := widths[i] + 2 - utf8.RuneCountInString(cell); n > 0; n-- {
				line = append(line, ' ')
			}
		}
		out.Write(append(bytes.TrimRight(line, " "), '\n'))
	}
	write(header)
	for _, row := range rows {
		write(row)
	}
	return out.Flush()
}

// facts writes names and values, one a line; those without a value are left out.
func facts(w io.Writer, pairs ...string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], pairs[i+1])
		}
	}
	return t.Flush()
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
	if utf8Locale() {
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

func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

func percent(n, total int) string {
	if total == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", (n*100+total/2)/total)
}
