// Package table writes what commands answer: tables, facts and sentences, as wide as a
// terminal, and JSON. What is in them may not enter here.
package table

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
	"unicode/utf8"

	"golang.org/x/term"
)

// JSON is every command's answer for programs.
func JSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// Column is one of a table.
type Column struct {
	Head  string
	Right bool // numbers
	// Leave is how soon it is left out where the line is too long: the highest first;
	// 0: never.
	Leave int
}

// Plain are columns that are never left out.
func Plain(heads ...string) []Column {
	all := make([]Column, len(heads))
	for i, h := range heads {
		all[i].Head = h
	}
	return all
}

// LeastCell is what a cell is cut to at least, and leastFirst the first of a line before
// columns are left out for it.
const (
	LeastCell  = 8
	leastFirst = 24
)

// Write writes rows under a header. Without rows it says so in words. What a line has
// behind its last word is left out. On a terminal, lines are no longer than it is
// wide: the first column is cut, then columns are left out, of which the last line
// tells; a last one of sentences goes on in the next line. It is not
// text/tabwriter, which takes a second for fifty thousand lines.
func Write(w io.Writer, none string, columns []Column, rows [][]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	widths := measure(columns, rows)
	shown, gone := fitting(Width(w), columns, widths)
	out := bufio.NewWriterSize(w, 64<<10)
	line := make([]byte, 0, 256)
	write := func(cell func(int) string) {
		line = line[:0]
		for _, i := range shown {
			line = append(pad(line, cell(i), widths[i], columns[i].Right), "  "...)
		}
		out.Write(append(bytes.TrimRight(line, " "), '\n'))
	}
	write(func(i int) string { return columns[i].Head })
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
		for _, line := range Wrap(Width(w), Width(w), left) {
			fmt.Fprintln(out, line)
		}
	}
	return out.Flush()
}

func measure(columns []Column, rows [][]string) []int {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.Head)
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
func fitting(room int, columns []Column, widths []int) (shown []int, gone []string) {
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
			if columns[i].Leave > columns[shown[worst]].Leave {
				worst = at
			}
		}
		i := shown[worst]
		if columns[i].Leave == 0 {
			break
		}
		total, shown = total-widths[i]-2, slices.Delete(shown, worst, worst+1)
		if !slices.Contains(gone, columns[i].Head) {
			gone = append(gone, columns[i].Head)
		}
	}
	if total > room {
		i := shown[0]
		if last := shown[len(shown)-1]; widths[last] > widths[i] {
			i = last
		}
		widths[i] = max(widths[i]-(total-room), LeastCell)
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
	lines := Wrap(widths[last], widths[last], row[last])
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
	if UTF8() {
		return "…"
	}
	return "~"
}

// Width is how long a line may be: as long as the terminal is wide, or as $COLUMNS
// says of it, or 0 for any length where it is no terminal.
func Width(w io.Writer) int {
	columns, _ := Size(w)
	return columns
}

// sized is a writer that has a size besides terminals.
type sized interface{ Size() (columns, lines int) }

// Size is how wide and high a terminal is; 0: it is none.
func Size(w io.Writer) (columns, lines int) {
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

// Wrap breaks a text between words into lines of a width, the first one of its own, where
// that is possible; 0: it is not broken.
func Wrap(first, width int, text string) (lines []string) {
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

// Facts writes names and values, one a line; those without a value are left out.
func Facts(w io.Writer, pairs ...string) error {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, utf8.RuneCountInString(pairs[i])+2)
		}
	}
	room := Width(w)
	if room > 0 {
		room = max(room-width, LeastCell)
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		name := pairs[i]
		for _, line := range Wrap(room, room, pairs[i+1]) {
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

// Sentence writes a line; what of it is too long goes on in the next, further in, or
// under what stands behind its label.
func Sentence(w io.Writer, text string) error {
	head, further := "", 4
	if label := labelled.FindString(text); label != "" && len(label) < 30 {
		head, further = label, len(label)
	}
	first, room := Width(w), Width(w)
	if room > 0 {
		first, room = max(first-len(head), LeastCell), max(room-further, LeastCell)
	}
	_, err := fmt.Fprintln(w, head+strings.Join(Wrap(first, room, text[len(head):]), "\n"+strings.Repeat(" ", further)))
	return err
}

// Sentences writes each line of a text so.
func Sentences(w io.Writer, text string) error {
	for line := range strings.Lines(text) {
		if err := Sentence(w, strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// UTF8 says whether whoever reads has letters besides those of ASCII.
func UTF8() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}
