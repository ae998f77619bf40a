//go:build linux

package fastpath

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/tests/netns"
)

// Of one that was killed while he pinned, some maps are missing: what is in the others
// is what their names say.
func TestFlowsInheritedInPart(t *testing.T) {
	netns.Require(t, netns.Root)
	for n, missing := range []string{"flows_0", "unitemised_0", "flows_1"} {
		dir := bpffs(t)
		f := itemised(t, 100)
		if err := f.Pin(dir); err != nil {
			t.Fatal(err)
		}
		k, s := flows.Key{Slot: 1, Proto: 17}, flows.Sum{First: 1, Last: 1, Packets: [2]uint64{3}, Bytes: [2]uint64{300}}
		for _, pair := range f.itemising.pair {
			if err := pair[0].Put(&k, &s); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(dir, missing)); err != nil {
			t.Fatal(err)
		}
		heir, err := Adopt(dir, "natless0", Itemising(100, 1))
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		if _, err := heir.DrainFlows(func(k *flows.Key, s *flows.Sum) {
			if k.Proto != 17 || s.Packets[flows.Sent] != 3 {
				t.Errorf("without %s: %+v of %+v", missing, s, k)
			}
			seen++
		}, func(_ uint32, n flows.Lost) { t.Errorf("without %s: lost %+v", missing, n) }); err != nil {
			t.Error(err)
		}
		if want := 1 + n%2; seen != want {
			t.Errorf("without %s: %d flows, want %d", missing, seen, want)
		}
		heir.Close()
	}
}

// drainer drains what it is told to.
type drainer int

func (d drainer) DrainFlows(func(*flows.Key, *flows.Sum), func(uint32, flows.Lost)) (int, error) {
	return int(d), nil
}

// Somebody who asks for flows has them drained while the collector asks whether it
// should: the race detector judges.
func TestFlowSourcePresses(t *testing.T) {
	t.Parallel()
	s := &FlowSource{Drainer: drainer(2), Room: 8}
	done := make(chan struct{})
	go func() { defer close(done); s.Drain(nil, nil) }()
	s.Presses()
	<-done
	if !s.Presses() {
		t.Error("one that was a quarter full is not drained sooner")
	}
}
