package fleet_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// TestSameName: of two machines that are called the same one borrows, and the other is told
// why not, until an operator says that the first is gone.
func TestSameName(t *testing.T) {
	t.Parallel()
	s, log := fleet.NewMemory(), slog.New(slog.DiscardHandler)
	if _, err := fleet.Create(t.Context(), s, fleet.Pools, fleet.Pool{Name: "lent", Spec: fleet.PoolSpec{IPv4: []string{"198.51.100.0/30"}, BlockLength: 32}}); err != nil {
		t.Fatal(err)
	}
	c := fleet.Controller{Store: s, Log: log}
	natlessds := [2]*conformance.Natlessd{{}, {}}
	var agents [2]fleet.Agent
	for i := range agents {
		agents[i] = fleet.Agent{Name: "one", Machine: fmt.Sprint("machine", i), Store: s, Natlessd: natlessds[i], Now: time.Now, Log: log}
	}
	step := func(i int) (err error) {
		for range 6 {
			if _, err = agents[i].Step(t.Context(), nil); err != nil {
				return err
			}
			if _, err = c.Pass(t.Context()); err != nil {
				return err
			}
		}
		return nil
	}
	holds := func(i int) int { b, _ := natlessds[i].Blocks(t.Context()); return len(b.Blocks) }
	if err := step(0); err != nil || holds(0) != 1 {
		t.Fatalf("%v, %d blocks", err, holds(0))
	}
	if err := step(1); err == nil || !strings.Contains(err.Error(), "machine0") || holds(1) != 0 {
		t.Errorf("the other: %v, %d blocks", err, holds(1))
	}
	agents[1].Replaces = true
	if err := step(1); err != nil || holds(1) != 1 {
		t.Errorf("the other, when the first is gone: %v, %d blocks", err, holds(1))
	}
	if err := step(0); err == nil {
		t.Error("the first is back, and nobody sees it")
	}
}

// TestOtherFabric: the host's prefix is the same to the fleet and to natlessd, or its condition,
// an event and its status say how they differ, and what to do; that it was mended is seen, too.
func TestOtherFabric(t *testing.T) {
	t.Parallel()
	s, log := fleet.NewMemory(), slog.New(slog.DiscardHandler)
	c := fleet.Controller{Store: s, Log: log, Now: time.Now}
	d := new(conformance.Natlessd)
	a := fleet.Agent{Name: "one", Store: s, Natlessd: d, Now: time.Now, Log: log}
	for _, test := range []struct{ fabric, edge, reason, remedy string }{
		{"", "", "Holds", ""},
		{"2001:db8:0:1::/96", "", "Holds", ""}, // no edge: somebody else leads packets to workloads
		{"2001:db8:0:1::/96", "2001:db8:0:2::/96", fleet.OtherFabric, "natless-fleet host one --fabric 2001:db8:0:2::/96, or edge: {host: \"2001:db8:0:1::/96\"}"},
		{"2001:db8:0:2::/96", "2001:db8:0:2::/96", "Holds", ""},
		{"2001:DB8:0:1:0:0::/96", "2001:db8:0:2::/96", fleet.OtherFabric, "--fabric 2001:db8:0:2::/96"},
		{"2001:DB8:0:2:0:0::/96", "2001:db8:0:2::/96", "Holds", ""}, // written otherwise
		{"", "2001:db8:0:2::/96", fleet.OtherFabric, "natless-fleet host one --fabric 2001:db8:0:2::/96"},
	} {
		d.EdgeHost = netip.Prefix{}
		if test.edge != "" {
			d.EdgeHost = netip.MustParsePrefix(test.edge)
		}
		if h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), s, fleet.Hosts, "one"); err == nil {
			h.Spec.Fabric = test.fabric
			if _, err := fleet.Update(t.Context(), s, fleet.Hosts, h); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 {
			if _, err := a.Step(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), s, fleet.Hosts, "one")
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(h.Status.Conditions, func(c fleet.Condition) bool { return c.Type == fleet.Ready })
		if i < 0 || h.Status.Conditions[i].Reason != test.reason || h.Status.Conditions[i].Message != h.Status.Error ||
			(h.Status.Error == "") != (test.remedy == "") || !strings.Contains(h.Status.Error, test.remedy) {
			t.Errorf("%+v: %+v", test, h.Status)
		}
	}
	notes, err := s.Notes(t.Context())
	told := 0
	for _, n := range notes {
		if n.Kind == fleet.Hosts && n.Name == "one" && n.Warning && n.Reason == fleet.OtherFabric {
			told++
		}
	}
	if err != nil || told != 3 {
		t.Errorf("%d events, want 3: %+v, %v", told, notes, err)
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	conformance.Run(t, func(*testing.T) (a, b fleet.Store) {
		m := fleet.NewMemory()
		return m, m
	})
}

// TestGivesBack: more is wanted below the low watermark; a block that has been empty for long,
// and without which there is room for the high one, is given back, one at a time; no other.
func TestGivesBack(t *testing.T) {
	t.Parallel()
	s, log, now := fleet.NewMemory(), slog.New(slog.DiscardHandler), time.Unix(1e9, 0)
	if _, err := fleet.Create(t.Context(), s, fleet.Pools, fleet.Pool{Name: "lent", Spec: fleet.PoolSpec{IPv4: []string{"198.51.100.0/28"}, BlockLength: 32}}); err != nil {
		t.Fatal(err)
	}
	c := fleet.Controller{Store: s, Log: log}
	d := new(conformance.Natlessd) // 4 workloads an address, 2 is low, 8 is high
	a := fleet.Agent{Name: "one", Store: s, Natlessd: d, Idle: 10 * time.Minute, Now: func() time.Time { return now }, Log: log}
	holds := func() int {
		t.Helper()
		for range 8 {
			if _, err := a.Step(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		b, _ := d.Blocks(t.Context())
		return len(b.Blocks)
	}
	if n := holds(); n != 1 {
		t.Fatalf("%d blocks of none", n)
	}
	for n := range 4 { // each time there is room for one more only
		b, _ := d.Blocks(t.Context())
		for _, one := range b.Blocks {
			d.Use(one.IPv4.Addr(), 4-one.Workloads)
		}
		d.Use(b.Blocks[0].IPv4.Addr(), -1)
		if is := holds(); is != n+2 {
			t.Fatalf("%d blocks, want %d, before the last are needed", is, n+2)
		}
	}
	b, _ := d.Blocks(t.Context())
	for _, one := range b.Blocks {
		d.Use(one.IPv4.Addr(), -one.Workloads)
	}
	if n := holds(); n != 5 {
		t.Errorf("%d blocks: some were given back at once", n)
	}
	now = now.Add(9 * time.Minute)
	if n := holds(); n != 5 {
		t.Errorf("%d blocks: some were given back before they were idle for long", n)
	}
	now = now.Add(2 * time.Minute)
	if n := holds(); n != 2 {
		t.Errorf("%d blocks, want 2: room for eight", n)
	}
	left, _, err := fleet.List[fleet.BlockSpec, fleet.BlockStatus](t.Context(), s, fleet.Blocks)
	if err != nil || len(left) != 2 {
		t.Errorf("%d blocks in the fleet, %v", len(left), err)
	}
}
