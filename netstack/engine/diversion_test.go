//go:build linux

package engine

import (
	"errors"
	"strings"
	"testing"
)

// The fast path is paused for the first who wants to see all, until the last
// has gone.
func TestDiversion(t *testing.T) {
	var none Diversion
	if end, err := none.Begin(); err != nil || none.Note() != "" {
		t.Error(err, none.Note())
	} else {
		end()
	}
	var said []bool
	var wrong error
	d := Diversion{pause: func(on bool) error { said = append(said, on); return wrong }, interfaces: func() int { return 3 }}
	if note := d.Note(); !strings.Contains(note, "on 3 interfaces") || !strings.Contains(note, "--all") {
		t.Error(note)
	}
	first, err1 := d.Begin()
	second, err2 := d.Begin()
	if err1 != nil || err2 != nil || d.Note() != "" {
		t.Error(err1, err2, d.Note())
	}
	first()
	if len(said) != 1 || !said[0] {
		t.Error(said)
	}
	second()
	if len(said) != 2 || said[1] {
		t.Error(said)
	}
	if wrong = errors.New("no map"); d.Note() == "" {
		t.Error("no note")
	}
	if _, err := d.Begin(); !errors.Is(err, wrong) || d.wanted != 0 {
		t.Error(err, d.wanted)
	}
}
