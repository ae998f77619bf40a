package api

import (
	"strings"
	"testing"
)

// TestLinesOf: a page of a daemon that has no lines of JSON is made into them.
func TestLinesOf(t *testing.T) {
	lines, next, err := linesOf([]byte(`{"workloads":[{"a":1},{"b":2}],"next":"x"}`))
	if err != nil || string(lines) != "{\"a\":1}\n{\"b\":2}\n" || next != "x" {
		t.Errorf("%q, %q, %v", lines, next, err)
	}
	if _, _, err := linesOf([]byte("nothing")); err == nil {
		t.Error("what is no JSON is read")
	}
}

// TestNoRows: what is no table of workloads is not taken for one.
func TestNoRows(t *testing.T) {
	head := strings.Join(RowColumns, "\t")
	for name, text := range map[string]string{"no table": "{}", "other columns": strings.Replace(head, "name", "title", 1) + "\n",
		"too short": head + "\na\tb\tc\n", "no address": head + "\n" + strings.Repeat("x\t", len(RowColumns)) + "\n"} {
		if got, err := readRows([]byte(text), 0); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
