//go:build linux

package fastpath

import (
	"testing"

	"github.com/natless/natless/tests/reference"
)

// fabricWays: what a workload behind the fabric sends is translated wherever in the
// fabric it comes in, and nowhere else; whoever has an interface is held to it still.
func fabricWays(t *testing.T, r *rig, f *FastPath) {
	p := newPair(t, r, prefixed()[0], f)
	behind := p.world.Mappings[0]
	in := map[int]*runner{r.work: newRunner(f.Workload.FD(), r.work, r.workMAC), r.up: newRunner(f.Workload.FD(), r.up, r.upMAC)}
	for _, c := range []struct {
		name   string
		at     int
		fabric [maxUplinks]int
		by     []int // where it is translated
	}{
		{name: "at an interface", at: r.work, fabric: [maxUplinks]int{r.up, r.work}, by: []int{r.work}},
		{name: "of no fabric", at: Fabric},
		{name: "of a fabric of one", at: Fabric, fabric: [maxUplinks]int{r.up}, by: []int{r.up}},
		{name: "of a fabric", at: Fabric, fabric: [maxUplinks]int{1, r.up, 0, 0, 0, 0, 0, r.work}, by: []int{r.up, r.work}},
		{name: "nowhere", fabric: [maxUplinks]int{r.up, r.work}},
	} {
		if err := f.SetInterface(behind, c.at); err != nil {
			t.Fatal(err)
		}
		if err := f.SetHost(Host{Fabric: c.fabric}); err != nil {
			t.Fatal(err)
		}
		r.Do(func() {
			for index, run := range in {
				want := false
				for _, by := range c.by {
					want = want || by == index
				}
				a, _, err := run.run(reference.Packet{Bytes: udp6(20)}, 0)
				if got := a == actRedirect; err != nil || got != want {
					t.Errorf("%s, at interface %d: translated is %v (%v)", c.name, index, got, err)
				}
			}
		})
	}
	if err := f.SetHost(Host{}); err != nil {
		t.Fatal(err)
	}
}

func TestFabric(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fabricWays(t, r, loaded(t))
}
