// Package layout holds the form of what one version writes and another reads, the
// registry's file and the fast path's maps, to a text that stands beside the code. A
// layout has a number; whoever changes the form without another number makes a version
// take the other's for damaged, or read it wrong. Only tests import it.
package layout

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the form down under its new number")

// Hold compares a form, in words, with what file says of it. With -update a form that
// has a new number is written there; under the number that it had, no other form ever is.
func Hold(t testing.TB, file, number, form string) {
	t.Helper()
	head := "layout " + number
	kept, err := os.ReadFile(file)
	if err != nil && !(os.IsNotExist(err) && *update) {
		t.Fatal(err)
	}
	was, before, _ := strings.Cut(string(kept), "\n")
	switch {
	case was == head && before == form:
	case was == head:
		t.Errorf("the form of %s is another than it was:\n%s\nAnother version would misread it: count the layout up, and then run this test with -update.", head, different(before, form))
	case !*update:
		t.Errorf("%s is of %s, and this is %s: run this test with -update", file, was, head)
	default:
		if err := os.WriteFile(file, []byte(head+"\n"+form), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// different are the lines that one of two texts has.
func different(before, now string) string {
	var out strings.Builder
	for _, d := range []struct{ mark, text, other string }{{"-", before, now}, {"+", now, before}} {
		have := map[string]bool{}
		for line := range strings.Lines(d.other) {
			have[line] = true
		}
		for line := range strings.Lines(d.text) {
			if !have[line] {
				out.WriteString(d.mark + " " + line)
			}
		}
	}
	if out.Len() == 0 {
		return "the same lines in another order"
	}
	return out.String()
}
