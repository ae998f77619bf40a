//go:build linux

package dataplane

import (
	"testing"
	"time"
)

func TestWantedShift(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name      string
		shift     int
		sum, most uint64
		passed    time.Duration
		want      int
	}{
		{"idle", 0, 0, 0, ms, 0},
		{"idle after bulk", 1, 0, 0, ms, 0},
		{"a ping", 0, 20 << 10, 20 << 10, ms, 0},
		{"one stream", 0, 1 << 20, 1 << 20, ms, 1},
		{"one stream with its acknowledgements", 0, 100 << 18, 83 << 18, 10 * ms, 1},
		{"many streams", 1, 1 << 20, 1 << 19, ms, 0},
		{"in between stays", 0, 100 << 18, 70 << 18, ms, 0},
		{"in between stays too", 1, 100 << 18, 70 << 18, ms, 1},
		{"the same in a long time is little", 1, 1 << 20, 1 << 20, time.Second, 0},
	} {
		if got := wanted(c.shift, c.sum, c.most, c.passed); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestShiftIsSteady(t *testing.T) {
	var steered []int
	p := placement{steer: func(shift int) error { steered = append(steered, shift); return nil }}
	for _, wanted := range []int{1, 1, 1, 0, 1, 1, 1} { // never often enough in a row
		p.vote(wanted, lookEvery)
	}
	if len(steered) != 0 {
		t.Errorf("steered to %v", steered)
	}
	p.vote(1, lookEvery)
	p.vote(0, time.Second) // after a pause, at once
	p.vote(0, time.Second)
	if len(steered) != 2 || steered[0] != 1 || steered[1] != 0 {
		t.Errorf("steered to %v", steered)
	}
}
