//go:build linux

package engine

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// TestEdit: a workload comes, changes and goes, in all parts and in their order.
func TestEdit(t *testing.T) {
	t.Parallel()
	state := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
	k, e := newFake(t, state)
	want := texts(state.Explicit)
	a, b := workload(1, 1), workload(1, 2)
	for _, c := range []Change{{New: a}, {Old: a, New: b}, {Old: b}} {
		k.calls = nil
		if err := errors.Join(e.Check(c), e.Edit(c)); err != nil {
			t.Fatal(err)
		}
		if c.Old != nil {
			delete(want, c.Old.Mapping.String())
		}
		if c.New != nil {
			want[c.New.Mapping.String()] = true
			if got := strings.Join(k.calls, ", "); got != "guard put, edit, fast path edit" {
				t.Errorf("in the order %s", got)
			}
		}
		if err := k.same(e, want, state); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(k.assigned, []netip.Addr{a.IPv4.Addr(), b.IPv4.Addr()}) {
		t.Errorf("announced %v", k.assigned)
	}
	if err := e.Edit(Change{New: a}); err != nil {
		t.Fatal(err)
	}
	second := workload(2, 1)
	second.Ports = a.Ports
	if check, edit := e.Check(Change{New: second}), e.Edit(Change{New: second}); check == nil || edit == nil {
		t.Errorf("two have the same ports: %v, %v", check, edit)
	}
}

// TestEditRefused: whoever refuses a workload, nobody has it afterwards.
func TestEditRefused(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"guard put", "edit"} {
		state := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
		k, e := newFake(t, state)
		k.refuse = func(name string) bool { return name == call }
		if err := e.Edit(Change{New: workload(1, 1)}); !errors.Is(err, errNo) {
			t.Errorf("%s: %v", call, err)
		}
		want := texts(state.Explicit)
		if call == "guard put" { // it goes by the table with the one refused until it is told of another
			k.guardTable = k.translator.Table()
		}
		if err := k.same(e, want, state); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestTold: who must know of what is given and taken hears of it.
func TestTold(t *testing.T) {
	t.Parallel()
	state := stateOf(t, "64:ff9b::/96", 1500)
	a, b := workload(1, 1), workload(2, 1)
	state.Outside = map[netip.Addr]bool{a.IPv4.Addr(): true}
	k, e := newFake(t, state)
	e.NoteInUse(route.InUse{Addr: a.IPv4.Addr(), Ports: ports.Of(ports.Single(a.Ports.Run(0).Last))})
	for _, w := range []*Workload{a, b} {
		if err := e.Edit(Change{New: w}); err != nil {
			t.Fatal(err)
		}
	}
	if k.looks != 1 || len(k.assigned) != 1 {
		t.Errorf("looked %d times, announced %v", k.looks, k.assigned)
	}
	if !e.Assigned(a.IPv4.Addr(), a.Ports.Min()) || e.Assigned(a.IPv4.Addr(), 1) {
		t.Error("who has which port")
	}
	select {
	case <-e.GivenBack():
		t.Error("nothing was given back")
	default:
	}
	if err := e.Edit(Change{Old: a}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.GivenBack():
	default:
		t.Error("something was given back")
	}
}

// transition is a way from one state to another.
type transition struct {
	name         string
	before, next *State
	moves        []Change
	told         bool // which mappings go and come
}

func (tr transition) plan(e *Engine) (*Plan, error) {
	if !tr.told {
		return e.Plan(tr.next, tr.moves...)
	}
	gone, come, _ := differences(tr.before.Explicit, tr.next.Explicit, 1<<20)
	return e.PlanExplicit(gone, come)
}

func transitions(t *testing.T) []transition {
	many := make([]mapping.Mapping, mostEdits+10)
	for i := range many {
		many[i] = mapping.Mapping{IPv6: netip.MustParsePrefix(fmt.Sprintf("2001:db8:d::%x/128", i)),
			IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)}
	}
	moved := []Change{{Old: workload(0, 1), New: workload(0, 9)}, {Old: workload(1, 1), New: workload(1, 9)}}
	one := func() *State { return stateOf(t, "64:ff9b::/96", 1500, explicit(1), explicit(2)) }
	return []transition{
		{"nothing", one(), one(), nil, false},
		{"routes", one(), func() *State { s := one(); s.Routes.Mapped4 = []netip.Prefix{explicit(1).IPv4}; return s }(), nil, false},
		{"configuration", one(), stateOf(t, "64:ff9b::/96", 1400, explicit(1), explicit(2)), nil, false},
		{"few mappings", one(), stateOf(t, "64:ff9b::/96", 1400, explicit(2), explicit(3)), nil, false},
		{"moves", one(), one(), moved, false},
		{"few mappings and moves", one(), stateOf(t, "64:ff9b::/96", 1500, explicit(4)), moved, false},
		{"another prefix", one(), stateOf(t, "2001:db8:64::/96", 1400, explicit(1)), nil, false},
		{"another prefix and moves", one(), stateOf(t, "2001:db8:64::/96", 1500, explicit(1)), moved, false},
		{"many mappings", one(), stateOf(t, "64:ff9b::/96", 1500, many...), nil, false},
		{"many mappings less", stateOf(t, "64:ff9b::/96", 1500, many...), one(), moved, false},
		// Either are few, and both together are not: an edit of the table, beside it.
		{"some of many", stateOf(t, "64:ff9b::/96", 1500, many[:600]...), stateOf(t, "64:ff9b::/96", 1400, many[434:]...), nil, false},
		{"some of many and moves", stateOf(t, "64:ff9b::/96", 1500, many[:600]...), stateOf(t, "64:ff9b::/96", 1500, many[434:]...), moved, false},
		{"few mappings that are told", one(), stateOf(t, "64:ff9b::/96", 1500, explicit(2), explicit(3)), nil, true},
		{"many mappings that are told", one(), stateOf(t, "64:ff9b::/96", 1500, many...), nil, true},
		{"none that are told", one(), one(), nil, true},
		{"the host's address and moves", hostAt(one(), 1), hostAt(one(), 9), moved, false},
		{"another prefix, the host's address and moves", hostAt(one(), 1), hostAt(stateOf(t, "2001:db8:64::/96", 1500, explicit(1)), 9), moved, false},
	}
}

// hostAt is s where the host has the address that workloads there share.
func hostAt(s *State, a byte) *State {
	s.Translator.Host4 = netip.AddrFrom4([4]byte{203, 0, 113, a})
	return s
}

// run commits a transition while workloads come and go at every moment, and gives
// what must be there at the end, if it went forward or back.
func (tr transition) run(t *testing.T, refuse func(call string) bool) (k *kernel, e *Engine, forward, back map[string]bool, err error) {
	k, e = newFake(t, tr.before)
	present, sent := map[string]*Workload{}, map[uint64]uint64{}
	send := func() { // each as much as nobody else
		for _, w := range present {
			n := 100 + w.Serial
			k.send(w, n)
			sent[w.Serial] += n
		}
	}
	put := func(w *Workload) {
		k.owns(Change{New: w})
		if err := e.Edit(Change{New: w}); err != nil {
			t.Fatalf("%s: %v", tr.name, err)
		}
		present[w.IPv6.String()] = w
	}
	gone := func(w *Workload) {
		for old := range maps.Values(present) { // the same workload, as it was given
			if old.IPv6 == w.IPv6 {
				w = old
			}
		}
		k.owns(Change{Old: w})
		if err := e.Edit(Change{Old: w}); err != nil {
			t.Fatalf("%s: %v", tr.name, err)
		}
		delete(present, w.IPv6.String())
	}
	for n := range 5 {
		put(workload(n, 1))
	}
	send()
	var moves []Change
	for _, c := range tr.moves {
		old := present[c.Old.IPv6.String()]
		now := *c.New
		now.Owner = Owner{Serial: serials.Add(1), Succeeds: old.Serial}
		moves = append(moves, Change{Old: old, New: &now})
		k.owns(Change{New: &now})
	}
	tr.moves = moves
	var plan *Plan
	if plan, err = tr.plan(e); err == nil {
		put(workload(10, 1))
		gone(workload(2, 1))
		k.refuse = refuse
		k.during["routes"] = func() { // behind the swap, and before it is known to stay
			was := k.refuse
			k.refuse = nil
			send()
			put(workload(11, 2))
			gone(workload(10, 1))
			gone(workload(3, 1))
			k.refuse = was
			for name, left := range map[string]*Workload{"guard plan": workload(4, 1), "fast path plan": workload(11, 2)} {
				k.during[name] = func() { // for the way back, which has nobody wait
					was := k.refuse
					k.refuse = nil
					send()
					put(workload(12+k.prepared, 2))
					gone(left)
					k.refuse, k.prepared = was, k.prepared+1
				}
			}
		}
		err = plan.Commit()
		k.refuse = nil
		clear(k.during)
	}
	if err != nil {
		for _, c := range tr.moves {
			k.owns(Change{New: c.Old})
		}
	}
	send()
	for _, w := range present {
		serial := w.Serial
		for _, c := range tr.moves {
			if c.Old.Serial == serial && err == nil {
				serial = c.New.Serial
			}
		}
		failed := (*StepError)(nil)
		if errors.As(err, &failed) && failed.Back != nil {
			continue // it is said that nothing is certain
		}
		if u, ok := k.accounts.Usage(serial); !ok || u.Violations != sent[w.Serial] {
			t.Errorf("%s (%v): %d is counted for %v, which sent %d", tr.name, err, u.Violations, w.Mapping, sent[w.Serial])
		}
	}
	forward, back = texts(tr.next.Explicit), texts(tr.before.Explicit)
	for _, w := range present {
		now := w
		for _, c := range tr.moves {
			if c.New.IPv6 == w.IPv6 {
				now = c.New
			}
		}
		forward[now.Mapping.String()], back[w.Mapping.String()] = true, true
	}
	return k, e, forward, back, err
}

// TestCommit goes from every state to every other, with nobody in the way.
func TestCommit(t *testing.T) {
	t.Parallel()
	for _, tr := range transitions(t) {
		k, e, want, _, err := tr.run(t, nil)
		if err != nil {
			t.Errorf("%s: %v", tr.name, err)
			continue
		}
		if err := k.same(e, want, tr.next); err != nil {
			t.Errorf("%s: %v", tr.name, err)
		}
	}
}

// TestWaysBack has every call of every commit refused, each once: the state before
// is in force again, with what changed meanwhile, and the error names the step.
func TestWaysBack(t *testing.T) {
	t.Parallel()
	names := map[string]string{"guard put": "guard", "guard plan": "", "guard commit": "guard", "reload": "translator",
		"fast path edit": "fast path", "configure": "fast path", "replace": "fast path", "routes": "routes"}
	refusals, prepared := 0, 0
	for _, tr := range transitions(t) {
		for call, step := range names {
			met := 0
			k, e, _, want, err := tr.run(t, func(name string) bool {
				if name == call {
					met++
				}
				return name == call && met == 1
			})
			if met == 0 {
				continue
			}
			refusals, prepared = refusals+1, prepared+k.prepared
			var failed *StepError
			if !errors.Is(err, errNo) || !errors.As(err, &failed) || failed.Step != step || failed.Back != nil ||
				!strings.Contains(err.Error(), "in force again") {
				t.Errorf("%s, %s refused: %v", tr.name, call, err)
			}
			if err := k.same(e, want, tr.before); err != nil {
				t.Errorf("%s, %s refused: %v", tr.name, call, err)
			}
			if plan, err := e.Plan(tr.next); err != nil { // the next is not kept from it
				t.Errorf("%s, %s refused: then %v", tr.name, call, err)
			} else {
				plan.Drop()
			}
		}
	}
	if refusals < 20 || prepared < 8 {
		t.Errorf("%d calls were refused, %d ways back were prepared: this proves little", refusals, prepared)
	}
}

// TestNoWayBack has the last step refused and then every way back: the error says
// so, and the next commit puts all in order.
func TestNoWayBack(t *testing.T) {
	t.Parallel()
	met := 0
	for _, tr := range transitions(t) {
		if tr.told {
			continue // routes stay, so that nothing is refused behind the swap
		}
		for _, call := range []string{"guard put", "guard plan", "guard commit", "reload", "replace"} {
			behind, refused := false, false
			k, e, want, _, err := tr.run(t, func(name string) bool {
				if name == "routes" {
					behind = true
					return true
				}
				refused = refused || behind && name == call
				return behind && name == call
			})
			var failed *StepError
			if !errors.As(err, &failed) || failed.Step != "routes" {
				t.Errorf("%s: %v", tr.name, err)
				continue
			}
			if !refused {
				continue
			}
			met++
			if failed.Back == nil || !errors.Is(failed.Back, errNo) || !strings.Contains(err.Error(), "parts of the new configuration are in force") {
				t.Errorf("%s, no way back by %s: %v", tr.name, call, err)
			}
			plan, err := e.Plan(again(t, tr.next), tr.moves...)
			if err == nil {
				err = plan.Commit()
			}
			if err != nil {
				t.Errorf("%s, no way back by %s: the next: %v", tr.name, call, err)
				continue
			}
			if err := k.same(e, want, tr.next); err != nil {
				t.Errorf("%s, no way back by %s: after the next: %v", tr.name, call, err)
			}
		}
	}
	if met < 10 {
		t.Errorf("%d: this proves little", met)
	}
}

func again(t *testing.T, s *State) *State {
	n := *s
	n.Explicit, _ = mapping.New(s.Explicit.Prefix(), slices.Collect(s.Explicit.All()))
	return &n
}

// TestPrefixKeepsSlots: with another prefix, workloads keep their slots, and with them all
// that is counted there: a million need not be read and put elsewhere.
func TestPrefixKeepsSlots(t *testing.T) {
	t.Parallel()
	k, e := newFake(t, stateOf(t, "64:ff9b::/96", 1500, explicit(1), explicit(2)))
	var all []*Workload
	for n := range 20 {
		all = append(all, workload(n, 1+n/7))
		if err := e.Edit(Change{New: all[n]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Edit(Change{Old: all[3]}); err != nil { // and leaves a gap
		t.Fatal(err)
	}
	all = slices.Delete(all, 3, 4)
	slots := func() (at []uint32) {
		for _, w := range all {
			at = append(at, slotOf(e.Table(), w.IPv6))
		}
		return at
	}
	before := slots()
	next := stateOf(t, "2001:db8:64::/96", 1500, explicit(2), explicit(3))
	plan, err := e.Plan(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Commit(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(slots(), before) {
		t.Errorf("workloads were at %v and are at %v", before, slots())
	}
	want := texts(next.Explicit)
	for _, w := range all {
		want[w.Mapping.String()] = true
	}
	if err := k.same(e, want, next); err != nil {
		t.Error(err)
	}
}

// TestRefusedPlan: what cannot be is refused before anything is done.
func TestRefusedPlan(t *testing.T) {
	t.Parallel()
	before := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
	k, e := newFake(t, before)
	w := workload(1, 1)
	if err := e.Edit(Change{New: w}); err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(texts(k.translator.Table()))
	k.calls = nil
	mine := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:77::/64"), IPv4: netip.MustParsePrefix("203.0.113.1/32")}
	wrong := stateOf(t, "64:ff9b::/96", 1500)
	wrong.Translator.MTU4 = 3
	routes := stateOf(t, "64:ff9b::/96", 1500)
	routes.Routes.MTU = 3
	for text, next := range map[string]*State{
		"a workload has it (natless whois, natless workloads delete): " + w.Mapping.String(): stateOf(t, "64:ff9b::/96", 1500, mine),
		"a workload has it": stateOf(t, "2001:db8:64::/96", 1500, mine),
		"IPv4 MTU 3":        wrong,
		"device mtu 3":      routes,
	} {
		if _, err := e.Plan(next); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q, got %v", text, err)
		}
	}
	if err := k.same(e, want, before); err != nil || len(k.calls) > 0 {
		t.Error(err, k.calls)
	}
}

// TestRefusedReplay: a workload is given, while a plan is made, what the plan gives
// to a mapping: it keeps it, and the plan is refused.
func TestRefusedReplay(t *testing.T) {
	t.Parallel()
	mine := mapping.Mapping{IPv6: netip.MustParsePrefix("2001:db8:77::/64"), IPv4: netip.MustParsePrefix("203.0.113.1/32")}
	for _, prefix := range []string{"64:ff9b::/96", "2001:db8:64::/96"} {
		before := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
		k, e := newFake(t, before)
		plan, err := e.Plan(stateOf(t, prefix, 1500, mine))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Edit(Change{New: workload(1, 1)}); err != nil {
			t.Fatal(err)
		}
		if err := plan.Commit(); err == nil || !strings.Contains(err.Error(), "a workload has it") {
			t.Errorf("%s: %v", prefix, err)
		}
		want := texts(before.Explicit)
		want[workload(1, 1).Mapping.String()] = true
		if err := k.same(e, want, before); err != nil {
			t.Error(err)
		}
	}
}

// TestRandom makes plans and edits at random, from many goroutines, and has steps
// refused at random: at the end all parts are of one mind.
func TestRandom(t *testing.T) {
	t.Parallel()
	all := transitions(t)
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		state := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
		k, e := newFake(t, state)
		present := make([]map[string]*Workload, 3)
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for g := range present {
			present[g] = map[string]*Workload{}
			rnd := rand.New(rand.NewPCG(seed, uint64(g+2)))
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					n, a := g*20+rnd.IntN(20), 100+g*3+rnd.IntN(3)
					c := Change{Old: present[g][fmt.Sprint(n)]}
					if rnd.IntN(3) > 0 {
						c.New = workload(n, a)
					}
					if c == (Change{}) || c.Old != nil && c.New != nil && c.Old.IPv4 == c.New.IPv4 {
						continue
					}
					if err := e.Edit(c); err == nil {
						if present[g][fmt.Sprint(n)] = c.New; c.New == nil {
							delete(present[g], fmt.Sprint(n))
						}
					} else {
						t.Error(err)
					}
					time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond)
				}
			})
		}
		for range 25 {
			tr := all[rnd.IntN(len(all))]
			step := []string{"guard", "translator", "fast path", "routes", ""}[rnd.IntN(5)]
			plan, err := e.Plan(again(t, tr.next))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rnd.IntN(1000)) * time.Microsecond)
			if step == "routes" {
				e.mu.Lock()
				k.refuse = func(name string) bool { return name == "routes" }
				e.mu.Unlock()
			}
			if err = plan.Commit(); err == nil {
				state = tr.next
			}
			e.mu.Lock()
			k.refuse = nil
			e.mu.Unlock()
		}
		close(stop)
		wg.Wait()
		want := texts(state.Explicit)
		for _, some := range present {
			for _, w := range some {
				want[w.Mapping.String()] = true
			}
		}
		if err := k.same(e, want, state); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}
