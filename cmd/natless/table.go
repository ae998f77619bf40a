package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// printJSON is every command's answer for programs.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// column is one of a table.
type column struct {
	head  string
	right bool // numbers
	// leave is how soon it is left out where the line is too long: the highest first;
	// 0: never.
	leave int
}

// plain are columns that are never left out.
func plain(heads ...string) []column {
	all := make([]column, len(heads))
	for i, h := range heads {
		all[i].head = h
	}
	return all
}

// leastCell is what a cell is cut to at least, and leastFirst the first of a line before
// columns are left out for it.
const (
	leastCell  = 8
	leastFirst = 24
)

// table writes rows under a header. Without rows it says so in words. What a line has
// behind its last word is left out. On a terminal, lines are no longer than it is
// wide: the first column is cut, then columns are left out, of which the last line
// tells; a last one of sentences goes on in the next line. It is not
// text/tabwriter, which takes a second for fifty thousand lines.
func table(w io.Writer, none string, columns []column, rows [][]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	widths := measure(columns, rows)
	shown, gone := fitting(widthOf(w), columns, widths)
	out := bufio.NewWriterSize(w, 64<<10)
	line := make([]byte, 0, 256)
	write := func(cell func(int) string) {
		line = line[:0]
		for _, i := range shown {
			line = append(pad(line, cell(i), widths[i], columns[i].right), "  "...)
		}
		out.Write(append(bytes.TrimRight(line, " "), '\n'))
	}
	write(func(i int) string { return columns[i].head })
	for _, row := range rows {
		rest := breakLast(row, shown, widths)
		write(func(i int) string { return row[i] })
		for _, more := range rest {
			write(func(i int) string {
				if i == shown[len(shown)-1] {
					return more
				}
				return ""
			})
		}
	}
	if gone != nil {
		left := fmt.Sprintf("(no room for %s: see a wider terminal, a pipe, or -o json)", strings.Join(gone, ", "))
		for _, line := range wrap(widthOf(w), widthOf(w), left) {
			fmt.Fprintln(out, line)
		}
	}
	return out.Flush()
}

func measure(columns []column, rows [][]string) []int {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.head)
	}
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// fitting are the columns that there is room for in a line, of 0 for any length, and
// the names of the others. What is still too long, the first and the last are made
// narrower for.
func fitting(room int, columns []column, widths []int) (shown []int, gone []string) {
	total := -2
	for i := range columns {
		shown = append(shown, i)
		total += widths[i] + 2
	}
	if room == 0 || total <= room {
		return shown, nil
	}
	spare := max(widths[0]-leastFirst, 0) // of the first column
	for total-spare > room {
		worst := 0
		for at, i := range shown {
			if columns[i].leave > columns[shown[worst]].leave {
				worst = at
			}
		}
		i := shown[worst]
		if columns[i].leave == 0 {
			break
		}
		total, shown = total-widths[i]-2, slices.Delete(shown, worst, worst+1)
		if !slices.Contains(gone, columns[i].head) {
			gone = append(gone, columns[i].head)
		}
	}
	if total > room {
		i := shown[0]
		if last := shown[len(shown)-1]; widths[last] > widths[i] {
			i = last
		}
		widths[i] = max(widths[i]-(total-room), leastCell)
	}
	return shown, gone
}

// breakLast breaks the last cell of a row, where it is too long, and gives what of it
// goes into lines of their own.
func breakLast(row []string, shown, widths []int) (rest []string) {
	last := shown[len(shown)-1]
	if len(row[last]) <= widths[last] || !strings.Contains(row[last], " ") {
		return nil
	}
	lines := wrap(widths[last], widths[last], row[last])
	row[last] = lines[0]
	return lines[1:]
}

// pad adds a cell, with spaces around it, or as much of it as there is room for.
func pad(line []byte, cell string, width int, right bool) []byte {
	n := width - utf8.RuneCountInString(cell)
	if n < 0 {
		letters, tail := []rune(cell), (width-1)/2 // names differ at their ends
		line = append(append(line, string(letters[:width-1-tail])...), ellipsis()...)
		return append(line, string(letters[len(letters)-tail:])...)
	}
	if !right {
		line = append(line, cell...)
	}
	for ; n > 0; n-- {
		line = append(line, ' ')
	}
	if right {
		line = append(line, cell...)
	}
	return line
}

func ellipsis() string {
	if utf8Locale() {
		return "…"
	}
	return "~"
}

// widthOf is how long a line may be: as long as the terminal is wide, or as $COLUMNS
// says of it, or 0 for any length where it is no terminal.
func widthOf(w io.Writer) int {
	columns, _ := sizeOf(w)
	return columns
}

// sized is a writer that has a size besides terminals.
type sized interface{ Size() (columns, lines int) }

func sizeOf(w io.Writer) (columns, lines int) {
	if s, ok := w.(sized); ok {
		return s.Size()
	}
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	columns, lines, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		columns = n
	}
	return columns, lines
}

// wrap breaks a text between words into lines of a width, the first one of its own, where
// that is possible; 0: it is not broken.
func wrap(first, width int, text string) (lines []string) {
	if first <= 0 || utf8.RuneCountInString(text) <= first {
		return []string{text}
	}
	line, room := "", first
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= room:
			line += " " + word
		default:
			lines, line, room = append(lines, line), word, width
		}
	}
	return append(lines, line)
}

// facts writes names and values, one a line; those without a value are left out.
func facts(w io.Writer, pairs ...string) error {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, utf8.RuneCountInString(pairs[i])+2)
		}
	}
	room := widthOf(w)
	if room > 0 {
		room = max(room-width, leastCell)
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		name := pairs[i]
		for _, line := range wrap(room, room, pairs[i+1]) {
			if _, err := fmt.Fprintf(w, "%-*s%s\n", width, name, line); err != nil {
				return err
			}
			name = ""
		}
	}
	return nil
}

// labelled is a line that begins with a word of its own column.
var labelled = regexp.MustCompile(`^ *\S* {2,}`)

// sentence writes a line; what of it is too long goes on in the next, further in, or
// under what stands behind its label.
func sentence(w io.Writer, text string) error {
	head, further := "", 4
	if label := labelled.FindString(text); label != "" && len(label) < 30 {
		head, further = label, len(label)
	}
	first, room := widthOf(w), widthOf(w)
	if room > 0 {
		first, room = max(first-len(head), leastCell), max(room-further, leastCell)
	}
	_, err := fmt.Fprintln(w, head+strings.Join(wrap(first, room, text[len(head):]), "\n"+strings.Repeat(" ", further)))
	return err
}

// sentences writes each line of a text so.
func sentences(w io.Writer, text string) error {
	for line := range strings.Lines(text) {
		if err := sentence(w, strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
	}
	return nil
}

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
