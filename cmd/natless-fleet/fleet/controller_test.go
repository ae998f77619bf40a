package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// desk is a store with a controller, and hosts that say what the test has them say.
type desk struct {
	*testing.T
	store *Memory
	c     Controller
}

func newDesk(t *testing.T, spec PoolSpec) *desk {
	m := NewMemory()
	d := &desk{t, m, Controller{Store: m, Log: slog.New(slog.DiscardHandler)}}
	if _, err := Create(t.Context(), m, Pools, Pool{Name: "lent", Spec: spec}); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) host(name string) Host {
	d.Helper()
	h, err := Get[HostSpec, HostStatus](d.Context(), d.store, Hosts, name)
	if err != nil {
		d.Fatal(err)
	}
	return h
}

// says has a host say something, as its agent would, and the controller do what follows.
func (d *desk) says(name string, st HostStatus) Host {
	d.Helper()
	h, err := Get[HostSpec, HostStatus](d.Context(), d.store, Hosts, name)
	if err != nil {
		h, err = Create(d.Context(), d.store, Hosts, Host{Name: name})
	}
	if h.Status = st; err == nil {
		_, err = UpdateStatus(d.Context(), d.store, Hosts, h)
	}
	if err != nil {
		d.Fatal(err)
	}
	d.passes()
	return d.host(name)
}

func (d *desk) passes() {
	d.Helper()
	for range 20 {
		wrote, err := d.c.Pass(d.Context())
		if err != nil {
			d.Fatal(err)
		}
		if !wrote {
			return
		}
	}
	d.Fatal("there is always more to do")
}

func (d *desk) blocks() (all []Block) {
	d.Helper()
	all, _, err := List[BlockSpec, BlockStatus](d.Context(), d.store, Blocks)
	if err != nil {
		d.Fatal(err)
	}
	return all
}

// force deletes an object as who does not care for finalizers.
func force[S, T any](d *desk, k Kind, o Of[S, T]) {
	d.Helper()
	o.Finalizers = nil
	o, err := Update(d.Context(), d.store, k, o)
	if err == nil {
		err = Delete(d.Context(), d.store, k, o)
	}
	if err != nil {
		d.Fatal(err)
	}
}

func wants(n int) HostStatus {
	return HostStatus{Pools: []HostPool{{Pool: "lent", PerAddress: 4, Wanted: n}}}
}

func holding(h Host) HostStatus {
	st := wants(0)
	st.Epoch = h.Spec.Epoch
	for _, b := range h.Spec.Blocks {
		st.Held = append(st.Held, Held{IPv4: b.IPv4, Pool: b.Pool, Lease: b.Lease})
	}
	return st
}

// TestLiar: a host that says what is not so harms itself at most. It gets nothing that
// another has, nothing outside of its pools, no more than a host may have, and keeps
// nobody from being lent something.
func TestLiar(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/28"}, BlockLength: 32, MaxBlocksPerHost: 2})
	honest := d.says("honest", wants(4))
	if len(honest.Spec.Blocks) != 1 {
		t.Fatalf("%+v", honest)
	}
	honest = d.says("honest", holding(honest))
	lie := wants(1 << 30)
	lie.Epoch = 1 << 62
	for _, prefix := range []string{honest.Spec.Blocks[0].IPv4, "0.0.0.0/0", "192.0.2.1/32", "198.51.100.0/24", "198.51.100.3/31", "x", "2001:db8::/32",
		"198.51.100.9/32", "198.51.100.10/32", "198.51.100.11/32", "198.51.100.12/32"} {
		lie.Held = append(lie.Held, Held{IPv4: prefix, Pool: "lent", Lease: 7})
	}
	lie.Held = append(lie.Held, Held{IPv4: "198.51.100.13/32", Pool: "lent", Lease: 1<<64 - 1})
	lie.Returned = []Returned{{IPv4: honest.Spec.Blocks[0].IPv4, Lease: 1<<64 - 1}}
	d.says("liar", lie)
	has := 0
	for _, b := range d.blocks() {
		if b.Spec.IPv4 == honest.Spec.Blocks[0].IPv4 && b.Spec.Host != "honest" || b.Spec.Lease >= plausible {
			t.Errorf("%+v", b.Spec)
		}
		if b.Spec.Host == "liar" {
			has++
			if !strings.HasPrefix(b.Spec.IPv4, "198.51.100.") || !strings.HasSuffix(b.Spec.IPv4, "/32") {
				t.Errorf("the liar has %+v", b.Spec)
			}
		}
	}
	if has > 2 {
		t.Errorf("the liar has %d blocks", has)
	}
	if other := d.says("other", wants(8)); len(other.Spec.Blocks) != 2 {
		t.Errorf("another host was lent %+v of %+v", other.Spec.Blocks, d.blocks())
	}
	if again := d.host("honest"); again.Spec.Blocks[0] != honest.Spec.Blocks[0] {
		t.Errorf("%+v, had %+v", again.Spec.Blocks, honest.Spec.Blocks)
	}
}

// TestDeletedByHand: who deletes blocks and hosts by hand takes nothing from a host that
// lives, and nothing of it is lent to another.
func TestDeletedByHand(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/31"}, BlockLength: 32})
	h := d.says("one", wants(8))
	if len(h.Spec.Blocks) != 2 {
		t.Fatalf("%+v", h)
	}
	st := holding(h)
	d.says("one", st)
	for _, b := range d.blocks() {
		force(d, Blocks, b)
	}
	if other := d.says("other", wants(4)); len(other.Spec.Blocks) != 0 {
		t.Errorf("another was lent %+v", other.Spec.Blocks)
	}
	force(d, Hosts, d.host("one"))
	again := d.says("one", st)
	if fmt.Sprint(again.Spec.Blocks) != fmt.Sprint(h.Spec.Blocks) || again.Spec.Epoch <= st.Epoch {
		t.Errorf("%+v, had %+v", again.Spec, h.Spec)
	}
	if all := d.blocks(); len(all) != 2 || all[0].Spec.Host != "one" || all[0].Spec.Lease != h.Spec.Blocks[0].Lease {
		t.Errorf("%+v", all)
	}
}

// TestRestored: a store that is older than its hosts takes from nobody what he has since.
func TestRestored(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/32"}, BlockLength: 32})
	one := d.says("one", holding(d.says("one", wants(4))))
	then := one.Spec.Blocks[0]
	// Since then it was given back, and lent to another, who says so to the store of before.
	st := wants(0)
	st.Epoch, st.Held = 40, []Held{{IPv4: then.IPv4, Pool: "lent", Lease: then.Lease + 30}}
	two := d.says("two", st)
	for _, b := range two.Spec.Blocks {
		if b.State == HostRevoked {
			t.Errorf("it loses %+v", b)
		}
	}
	back := wants(0)
	back.Epoch, back.Returned = 50, []Returned{{IPv4: then.IPv4, Lease: then.Lease}}
	d.says("one", back)
	d.passes()
	two = d.host("two")
	if len(two.Spec.Blocks) != 1 || two.Spec.Blocks[0].State != HostLent || two.Spec.Blocks[0].Lease != then.Lease+30 || two.Spec.Epoch <= 40 {
		t.Errorf("%+v", two.Spec)
	}
	if all := d.blocks(); len(all) != 1 || all[0].Spec.Host != "two" {
		t.Errorf("%+v", all)
	}
}

// TestDrains: what a host that drains has, and what a pool has no more, is to come back;
// what is told again is told once.
func TestDrains(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/30"}, BlockLength: 31})
	one := d.says("one", holding(d.says("one", wants(8))))
	epoch := one.Spec.Epoch
	d.passes()
	if now := d.host("one"); now.Spec.Epoch != epoch || now.Version != one.Version {
		t.Errorf("told again: %+v, %+v", one, now)
	}
	states := func() (all []HostBlockState) {
		for _, b := range d.host("one").Spec.Blocks {
			all = append(all, b.State)
		}
		return all
	}
	spec := func(f func(*HostSpec)) {
		h := d.host("one")
		f(&h.Spec)
		if _, err := Update(t.Context(), d.store, Hosts, h); err != nil {
			t.Fatal(err)
		}
		d.passes()
	}
	for _, drain := range []bool{true, false} {
		spec(func(h *HostSpec) { h.Drain = drain })
		if want := map[bool]string{true: "[Draining]", false: "[Lent]"}[drain]; fmt.Sprint(states()) != want {
			t.Errorf("drain %v: %v", drain, states())
		}
	}
	p, err := Get[PoolSpec, PoolStatus](t.Context(), d.store, Pools, "lent")
	if p.Spec.IPv4 = []string{"203.0.113.0/30"}; err == nil {
		_, err = Update(t.Context(), d.store, Pools, p)
	}
	if err != nil {
		t.Fatal(err)
	}
	if d.passes(); fmt.Sprint(states()) != "[Draining]" {
		t.Errorf("renumbered: %v", states())
	}
	st := d.host("one").Status
	st.Pools[0].Wanted = 1
	if h := d.says("one", st); len(h.Spec.Blocks) != 2 || !netip.MustParsePrefix("203.0.113.0/30").Overlaps(netip.MustParsePrefix(h.Spec.Blocks[1].IPv4)) {
		t.Errorf("%+v", h.Spec.Blocks)
	}
}

// TestElector: one leads, another takes over when nobody renews for long by his own
// clock, whatever the clocks say.
func TestElector(t *testing.T) {
	t.Parallel()
	m, now := NewMemory(), time.Unix(1e9, 0)
	ahead := func(d time.Duration) func() time.Time { return func() time.Time { return now.Add(d) } }
	a := &Elector{Name: "a", Store: m, Duration: 15 * time.Second, Now: ahead(0)}
	b := &Elector{Name: "b", Store: m, Duration: 15 * time.Second, Now: ahead(-24 * time.Hour)}
	lead := func(e *Elector) bool {
		is, err := e.Lead(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	if !lead(a) || lead(b) {
		t.Fatal("the first does not lead, or both do")
	}
	for range 10 {
		if now = now.Add(5 * time.Second); !lead(a) || lead(b) {
			t.Fatal("who renews leads no more")
		}
	}
	now = now.Add(14 * time.Second)
	if lead(b) {
		t.Error("taken over too early")
	}
	now = now.Add(2 * time.Second)
	if !lead(b) || lead(a) {
		t.Error("nobody takes over, or both lead")
	}
}

// TestOverlap holds the claims against a look at each.
func TestOverlap(t *testing.T) {
	t.Parallel()
	all := []string{"198.51.100.0/28", "198.51.100.16/32", "198.51.100.18/31", "203.0.113.0/24", "255.255.255.255/32"}
	c := new(claims)
	for _, p := range all {
		c.add(p)
	}
	for _, base := range []string{"198.51.100.0", "198.51.100.16", "198.51.100.17", "198.51.100.18", "198.51.100.24", "203.0.113.77", "255.255.255.254", "0.0.0.0"} {
		for bits := range 33 {
			p := netip.PrefixFrom(netip.MustParseAddr(base), bits).Masked()
			want := false
			for _, o := range all {
				want = want || netip.MustParsePrefix(o).Overlaps(p)
			}
			if got := c.overlap(p, false); got != want {
				t.Errorf("%s: %v, want %v", p, got, want)
			}
		}
	}
}

// relayed has a host of an IPv6-only fabric, and a relay that says what the test has it say.
func (d *desk) relayed(relay string, epoch uint64) {
	d.Helper()
	r, err := Get[RelaySpec, RelayStatus](d.Context(), d.store, Relays, relay)
	if err != nil {
		r, err = Create(d.Context(), d.store, Relays, Relay{Name: relay})
	}
	if r.Status = (RelayStatus{Renewed: "now", Epoch: epoch}); err == nil {
		_, err = UpdateStatus(d.Context(), d.store, Relays, r)
	}
	if err != nil {
		d.Fatal(err)
	}
}

func (d *desk) spec(host string, f func(*HostSpec)) {
	d.Helper()
	h, err := Get[HostSpec, HostStatus](d.Context(), d.store, Hosts, host)
	if err != nil {
		h, err = Create(d.Context(), d.store, Hosts, Host{Name: host})
	}
	if f(&h.Spec); err == nil {
		_, err = Update(d.Context(), d.store, Hosts, h)
	}
	if err != nil {
		d.Fatal(err)
	}
}

// TestAcknowledged: a host is told of a block when all relays that live have it, and another
// is lent it when none has, whoever is silent.
func TestAcknowledged(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.7/32"}, BlockLength: 32})
	now := time.Unix(1e9, 0)
	d.c.Now, d.c.Patience = func() time.Time { return now }, time.Minute
	d.relayed("east", 1)
	d.relayed("west", 1)
	d.spec("one", func(h *HostSpec) { h.Fabric = "2001:db8:0:1::/96" })
	if h := d.says("one", wants(4)); len(h.Spec.Blocks) != 0 {
		t.Fatalf("told before a relay has it: %+v", h.Spec)
	}
	b := d.blocks()[0]
	if b.Spec.State != Offered || b.Spec.IPv6 != "2001:db8:0:1::c633:6407/128" {
		t.Errorf("%+v", b.Spec)
	}
	d.relayed("east", revisionOf(b.Version))
	if d.passes(); len(d.host("one").Spec.Blocks) != 0 {
		t.Error("told before all relays have it")
	}
	now = now.Add(2 * time.Minute)
	d.relayed("east", revisionOf(b.Version)) // which lives; west is silent
	if d.passes(); len(d.host("one").Spec.Blocks) != 1 {
		t.Fatal("it waits for a relay that is silent for long")
	}
	d.says("one", holding(d.host("one")))
	d.spec("one", func(h *HostSpec) { h.Fenced = true })
	d.passes()
	d.relayed("east", 1<<40)
	d.passes()
	if all := d.blocks(); len(all) != 1 || all[0].Spec.State != Ended {
		t.Fatalf("%+v: a relay that is silent may lead to who had it", all)
	}
	if h := d.says("two", wants(4)); len(h.Spec.Blocks) != 0 || d.blocks()[0].Spec.Host != "one" {
		t.Errorf("somebody else's: %+v", d.blocks())
	}
	r, err := Get[RelaySpec, RelayStatus](t.Context(), d.store, Relays, "west")
	if r.Spec.Fenced = true; err == nil {
		_, err = Update(t.Context(), d.store, Relays, r)
	}
	if d.passes(); err != nil || len(d.host("two").Spec.Blocks) != 1 {
		t.Errorf("%v: %+v", err, d.blocks())
	}
}

// TestFabric: a prefix is one host's: of two that claim one the one's who has blocks there,
// and nobody's if neither has.
func TestFabric(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/28"}, BlockLength: 32})
	claims := func(name, fabric string) {
		d.spec(name, func(h *HostSpec) { h.Fabric = fabric })
	}
	claims("one", "2001:db8:0:1::/96")
	if d.says("one", holding(d.says("one", wants(4)))); len(d.host("one").Spec.Blocks) != 1 {
		t.Fatalf("%+v", d.host("one"))
	}
	claims("thief", "2001:db8:0:1::/96")
	if h := d.says("thief", wants(4)); len(h.Spec.Blocks) != 0 {
		t.Errorf("who claims another's prefix has %+v", h.Spec.Blocks)
	}
	st := d.host("one").Status
	st.Pools[0].Wanted = 4
	if h := d.says("one", st); len(h.Spec.Blocks) != 2 {
		t.Errorf("whose prefix it is gets nothing more: %+v", h.Spec.Blocks)
	}
	claims("a", "2001:db8:0:2::/96")
	claims("b", "2001:db8:0:2::/96")
	claims("c", "2001:db8:0:3::/64")
	for _, name := range []string{"a", "b", "c"} {
		if h := d.says(name, wants(4)); len(h.Spec.Blocks) != 0 {
			t.Errorf("%s has %+v", name, h.Spec.Blocks)
		}
	}
	claims("b", "2001:db8:0:4::/96")
	d.passes()
	if a, b := d.host("a"), d.host("b"); len(a.Spec.Blocks) != 1 || len(b.Spec.Blocks) != 1 {
		t.Errorf("when it is mended: %+v, %+v", a.Spec, b.Spec)
	}
}

// TestFoundAgain: the rule of a loan that is found again is another, since relays have seen
// that of before end.
func TestFoundAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/32"}, BlockLength: 32})
	d.spec("one", func(h *HostSpec) { h.Fabric = "2001:db8:0:1::/96" })
	d.says("one", holding(d.says("one", wants(4))))
	before := d.blocks()[0]
	force(d, Blocks, before)
	force(d, Hosts, d.host("one"))
	d.spec("one", func(h *HostSpec) { h.Fabric = "2001:db8:0:1::/96" })
	st := wants(0)
	st.Held = []Held{{IPv4: before.Spec.IPv4, Pool: "lent", Lease: before.Spec.Lease}}
	d.says("one", st)
	was, _ := offerOf(before)
	if is, ok := offerOf(d.blocks()[0]); !ok || d.blocks()[0].Spec.Lease != before.Spec.Lease || is.rule.Lease <= was.rule.Lease {
		t.Errorf("%+v, was %+v", d.blocks()[0].Spec, before.Spec)
	}
}

// TestConditions: what a pool cannot do, and for which relay a block waits, stands in their
// conditions, and people are told once.
func TestConditions(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/32"}, BlockLength: 32})
	now := time.Unix(1e9, 0)
	d.c.Now, d.c.Patience = func() time.Time { return now }, time.Hour
	d.relayed("west", 1)
	d.says("one", wants(4))
	d.says("two", wants(4))
	pool := func() PoolStatus {
		p, err := Get[PoolSpec, PoolStatus](t.Context(), d.store, Pools, "lent")
		if err != nil {
			t.Fatal(err)
		}
		return p.Status
	}
	is := func(all []Condition, kind, status, reason string) {
		t.Helper()
		if c := condition(all, kind); c == nil || c.Status != status || c.Reason != reason {
			t.Errorf("%s: %+v, want %s, %s", kind, c, status, reason)
		}
	}
	is(pool().Conditions, Lending, "True", "Valid")
	is(pool().Conditions, Satisfied, "False", "Exhausted")
	since := condition(pool().Conditions, Satisfied).LastTransitionTime
	now = now.Add(10 * time.Second)
	d.passes()
	b := d.blocks()[0]
	is(b.Status.Conditions, Acknowledged, "False", "Waiting")
	if m := condition(b.Status.Conditions, Acknowledged).Message; m != "of west" {
		t.Errorf("it waits %s", m)
	}
	d.relayed("west", revisionOf(b.Version))
	d.passes()
	is(d.blocks()[0].Status.Conditions, Acknowledged, "True", "Acknowledged")
	if c := condition(pool().Conditions, Satisfied); c.LastTransitionTime != since {
		t.Errorf("%+v, was so since %s", c, since)
	}
	p, err := Get[PoolSpec, PoolStatus](t.Context(), d.store, Pools, "lent")
	if p.Spec.IPv4 = []string{"198.51.100.1/24"}; err == nil {
		_, err = Update(t.Context(), d.store, Pools, p)
	}
	d.passes()
	is(pool().Conditions, Lending, "False", "Invalid")
	notes := map[string]int{}
	all, err2 := d.store.Notes(t.Context())
	for _, n := range all {
		notes[string(n.Kind)+" "+n.Reason]++
	}
	want := map[string]int{"hosts BlockLent": 1, "pools Exhausted": 1, "blocks Waiting": 1, "pools Invalid": 1}
	if err != nil || err2 != nil || fmt.Sprint(notes) != fmt.Sprint(want) {
		t.Errorf("%v, want %v (%v, %v)", notes, want, err, err2)
	}
}

// TestLeaves: a host that was deleted goes when it has given back what it has, one that is
// fenced at once; a relay when an operator has said that it is off.
func TestLeaves(t *testing.T) {
	t.Parallel()
	d := newDesk(t, PoolSpec{IPv4: []string{"198.51.100.0/30"}, BlockLength: 32})
	d.relayed("east", 1)
	d.relayed("east", 1<<40)
	holds := holding(d.says("one", wants(4)))
	d.says("one", holds)
	gone := func(k Kind, name string) bool {
		_, err := d.store.Get(t.Context(), k, name)
		return errors.Is(err, ErrNotFound)
	}
	del := func(k Kind, name string) {
		t.Helper()
		o, err := d.store.Get(t.Context(), k, name)
		if err == nil {
			err = d.store.Delete(t.Context(), o)
		}
		if err != nil {
			t.Fatal(err)
		}
		d.passes()
	}
	del(Hosts, "one")
	del(Relays, "east")
	if gone(Hosts, "one") || gone(Relays, "east") {
		t.Error("gone, and something hangs on it")
	}
	h := d.host("one")
	if h.Spec.Blocks[0].State != HostDraining {
		t.Errorf("%+v", h.Spec)
	}
	back := wants(0)
	back.Epoch, back.Returned = h.Spec.Epoch, []Returned{{h.Spec.Blocks[0].IPv4, h.Spec.Blocks[0].Lease}}
	h.Status = back
	if _, err := UpdateStatus(t.Context(), d.store, Hosts, h); err != nil {
		t.Fatal(err)
	}
	if d.passes(); !gone(Hosts, "one") || len(d.blocks()) > 0 {
		t.Errorf("it is there yet: %+v", d.blocks())
	}
	r, err := Get[RelaySpec, RelayStatus](t.Context(), d.store, Relays, "east")
	if r.Spec.Fenced = true; err == nil {
		_, err = Update(t.Context(), d.store, Relays, r)
	}
	if d.passes(); err != nil || !gone(Relays, "east") {
		t.Errorf("the relay is there yet: %v", err)
	}
}
