package table

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// narrow is a terminal of any width.
type narrow struct {
	strings.Builder
	columns int
}

func (n *narrow) Size() (columns, lines int) { return n.columns, 24 }

// TestNarrowTable: names are cut in the middle, so that they still differ, before a column
// is left out; which ones are is said; and where there is room, or no terminal, nothing is.
func TestNarrowTable(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	columns := []Column{{Head: "NAME"}, {Head: "WHERE", Leave: 2}, {Head: "WHAT", Leave: 1}, {Head: "N", Right: true}}
	rows := func() (all [][]string) {
		for i := range 3 {
			all = append(all, []string{fmt.Sprintf("production/a-deployment-of-a-long-name-6f7c9d-%d", i), "198.51.100.100", "something", fmt.Sprint(i)})
		}
		return all
	}
	for _, c := range []struct {
		width int
		has   []string // in the header
		gone  string
	}{
		{0, []string{"NAME", "WHERE", "WHAT", "N"}, ""}, {200, []string{"NAME", "WHERE", "WHAT", "N"}, ""},
		{60, []string{"NAME", "WHERE", "WHAT", "N"}, ""}, {50, []string{"NAME", "WHAT", "N"}, "WHERE"}, {30, []string{"NAME", "N"}, "WHERE, WHAT"},
	} {
		out := &narrow{columns: c.width}
		if err := Write(out, "", columns, rows()); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if got := strings.Fields(lines[0]); strings.Join(got, " ") != strings.Join(c.has, " ") {
			t.Errorf("%d: %v, want %v", c.width, got, c.has)
		}
		if said := strings.Contains(out.String(), "(no room for "+c.gone); said != (c.gone != "") {
			t.Errorf("%d: what is left out is not said, or for nothing:\n%s", c.width, out)
		}
		seen := map[string]bool{}
		for i, line := range lines {
			if n := utf8.RuneCountInString(line); c.width > 0 && n > c.width {
				t.Errorf("%d: a line of %d: %s", c.width, n, line)
			}
			if i > 0 && i < 4 {
				seen[strings.Fields(line)[0]] = true
			}
		}
		if len(seen) != 3 {
			t.Errorf("%d: names that cannot be told apart:\n%s", c.width, out)
		}
	}
}

func TestSentence(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"short", "short\n"},
		{"one two three four five", "one two three four\n    five\n"},
		{"label    one two three four", "label    one two\n         three four\n"},
		{"  indented", "  indented\n"},
		{"averyveryverylongwordthatcannotbebroken", "averyveryverylongwordthatcannotbebroken\n"},
	} {
		out := &narrow{columns: 20}
		if err := Sentence(out, c.text); err != nil || out.String() != c.want {
			t.Errorf("%q: %q, want %q, %v", c.text, out, c.want, err)
		}
	}
	var plain strings.Builder
	if err := Sentence(io.Writer(&plain), strings.Repeat("word ", 100)); err != nil || strings.Count(plain.String(), "\n") != 1 {
		t.Error("it is broken where there is no terminal")
	}
}
