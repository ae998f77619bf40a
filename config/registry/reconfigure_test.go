package registry

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// reconfigure puts pools in force as a daemon does: swap stands for all that can
// refuse them.
func reconfigure(r *Registry, pools []Pool, history int, swap func(assigned iter.Seq[mapping.Mapping], outside []Share) error) error {
	p, err := r.Plan(pools, history)
	if err != nil {
		return err
	}
	if _, err := p.Move(); err != nil {
		return err
	}
	if err := swap(r.Mappings(), p.Outside()); err != nil {
		return errors.Join(err, p.Back())
	}
	p.Commit()
	return nil
}

// TestBack: a plan that does not come into force leaves nothing behind, in memory or
// on disk; what happened meanwhile stays.
func TestBack(t *testing.T) {
	t.Parallel()
	all := ports.MustParse("10240-20479")
	here, there := uplink("host", "192.0.2.1", all), uplink("host", "192.0.2.9", all)
	r, clock := start(t, here)
	for n := range 4 {
		mustPut(t, r, n, request(n))
	}
	clock.advance(time.Minute)
	had, _ := r.Get(key(0))
	p, err := r.Plan([]Pool{there}, 10)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := p.Move()
	if err != nil || len(changes) != 4 {
		t.Fatalf("%d moved, %v", len(changes), err)
	}
	if a, _ := r.Get(key(0)); a.Address != there.IPv4.Addr() {
		t.Errorf("it has %v", a.Address)
	}
	if a := mustPut(t, r, 9, request(9)); a.Address != here.IPv4.Addr() || a.Ports.Overlaps(had.Ports) {
		t.Errorf("who comes meanwhile gets %v, which somebody may come back to", a.words())
	}
	if err := r.Delete(t.Context(), key(9)); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Hour)
	if err := p.Back(); err != nil {
		t.Fatal(err)
	}
	if a, _ := r.Get(key(0)); a.held != had.held {
		t.Errorf("it has %v, had %v", a, had)
	}
	mustPut(t, r, 10, request(10)) // which frees what has cooled down
	for _, n := range []int{9, 10} {
		if n == 10 {
			r.Delete(t.Context(), key(10))
			clock.advance(time.Hour)
			mustPut(t, r, 0, request(0))
		}
	}
	if _, err := Check(copyOf(t, r)); err != nil {
		t.Error(err)
	}
	for n := range 4 {
		if a, err := r.Get(key(n)); err != nil || a.Address != here.IPv4.Addr() || a.Since.After(time.Unix(1_700_000_000, 0)) {
			t.Errorf("%d has %+v, %v", n, a, err)
		}
	}
	// Some go, and some get something else, between the move and the way back.
	if changes, err = p.Move(); err != nil || len(changes) != 4 {
		t.Fatalf("again: %d moved, %v", len(changes), err)
	}
	r.Delete(t.Context(), key(1))
	q := request(2)
	q.Ports = 4096
	mustPut(t, r, 2, q)
	if err := p.Back(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(key(1)); err == nil || r.Len() != 3 {
		t.Errorf("who has gone is back: %v, %d there", err, r.Len())
	}
	if _, err := Check(copyOf(t, r)); err != nil {
		t.Error(err)
	}
	if p, err = r.Plan([]Pool{there}, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Move(); err != nil {
		t.Fatal(err)
	}
	p.Commit()
	if u := r.Pools()[0]; u.Addresses[0].PortsUsed != u.PortsUsed || u.Addresses[0].Address != there.IPv4.Addr() || u.Workloads != 3 {
		t.Errorf("%+v", u)
	}
}

// TestUplinkFlaps: the uplink's address changes and changes back while ports that
// somebody gave back cool down on it, which somebody else has by then.
func TestUplinkFlaps(t *testing.T) {
	t.Parallel()
	all := ports.MustParse("10240-12287")
	here, there := uplink("host", "192.0.2.1", all), uplink("host", "192.0.2.9", all)
	here.Cooldown, there.Cooldown = time.Hour, time.Hour
	r, _ := start(t, here)
	mustPut(t, r, 1, request(1))
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	same := func(iter.Seq[mapping.Mapping], []Share) error { return nil }
	if err := reconfigure(r, []Pool{there}, 10, same); err != nil {
		t.Fatal(err)
	}
	a := mustPut(t, r, 2, request(2))
	if err := reconfigure(r, []Pool{here}, 10, same); err != nil {
		t.Fatal(err)
	}
	if b, err := r.Get(key(2)); err != nil || b.Address != here.IPv4.Addr() || !a.Ports.Equal(b.Ports) {
		t.Errorf("%v, %v", b, err)
	}
	if _, err := Check(copyOf(t, r)); err != nil {
		t.Error(err)
	}
	r.Close()
	again, err := Open(Options{Path: r.path, Pools: []Pool{here}, Now: r.now})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestAdopt: pools change at random under workloads that come and go, and what is
// known of them stays what a start would read from the disk.
func TestAdopt(t *testing.T) {
	t.Parallel()
	kinds := [][]Pool{
		{shared("198.51.100.0/30", 1024)},
		{shared("198.51.100.0/29", 1024)},
		{shared("198.51.100.2/31", 512), {Name: "other", IPv4: netip.MustParsePrefix("198.51.100.0/31"), PortsPerWorkload: 2048}},
		{{Name: "whole", IPv4: netip.MustParsePrefix("198.51.100.0/28"), Whole: true, Cooldown: time.Second}},
		{{Name: "elsewhere", IPv4: netip.MustParsePrefix("203.0.113.0/30"), PortsPerWorkload: 1024}},
		{shared("198.51.100.0/30", 1024), uplink("host", "192.0.2.1", ports.Set{})},
		{uplink("host", "192.0.2.9", ports.Set{})},
	}
	r, clock := start(t, kinds[0]...)
	same := func(iter.Seq[mapping.Mapping], []Share) error { return nil }
	for n := range 300 {
		clock.advance(time.Duration(n%7) * time.Second)
		switch {
		case n%5 == 4:
			if err := reconfigure(r, kinds[n*7%11%len(kinds)], 100, same); err != nil {
				t.Fatal(err)
			}
		case n%5 == 3:
			r.Delete(t.Context(), key(n*3%40))
		default:
			r.Put(t.Context(), key(n%40), request(n%40)) // or it is full
		}
		pools, outside, on := fmt.Sprintf("%+v", r.Pools()), fmt.Sprint(r.Outside()), fmt.Sprint(r.OnBarred())
		r.mu.Lock()
		err := r.rebuild()
		r.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if again := fmt.Sprintf("%+v", r.Pools()); again != pools {
			t.Fatalf("step %d: it knows\n%s\nand the disk says\n%s", n, pools, again)
		}
		if again := fmt.Sprint(r.Outside()); again != outside || on != fmt.Sprint(r.OnBarred()) {
			t.Fatalf("step %d: outside is %s, the disk says %s", n, outside, again)
		}
	}
}

// copyOf is a copy of a registry's file, which is open.
func copyOf(t *testing.T, r *Registry) string {
	t.Helper()
	path := t.TempDir() + "/copy.db"
	b, err := os.ReadFile(r.path)
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
