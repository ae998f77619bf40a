//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
)

// The fast path is paused for the first who wants to see all, until the last
// has gone.
func TestDiversion(t *testing.T) {
	var none diversion
	if end, err := none.begin(); err != nil || none.note() != "" {
		t.Error(err, none.note())
	} else {
		end()
	}
	var said []bool
	var wrong error
	d := diversion{pause: func(on bool) error { said = append(said, on); return wrong }, interfaces: func() int { return 3 }}
	if note := d.note(); !strings.Contains(note, "on 3 interfaces") || !strings.Contains(note, "--all") {
		t.Error(note)
	}
	first, err1 := d.begin()
	second, err2 := d.begin()
	if err1 != nil || err2 != nil || d.note() != "" {
		t.Error(err1, err2, d.note())
	}
	first()
	if len(said) != 1 || !said[0] {
		t.Error(said)
	}
	second()
	if len(said) != 2 || said[1] {
		t.Error(said)
	}
	if wrong = errors.New("no map"); d.note() == "" {
		t.Error("no note")
	}
	if _, err := d.begin(); !errors.Is(err, wrong) || d.wanted != 0 {
		t.Error(err, d.wanted)
	}
}
