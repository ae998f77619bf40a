//go:build linux

package engine

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/policy"
)

// subjects are whom policies may select, by their prefixes.
type subjects map[netip.Prefix]policy.Workload

func (s subjects) all() iter.Seq2[netip.Prefix, policy.Workload] { return maps.All(maps.Clone(s)) }

// heldWorkload is a workload with a name, which the registry knows.
func (s subjects) heldWorkload(k *kernel, n int, name string) *Workload {
	w := workload(n, 1)
	w.Subject = policy.Workload{Name: name}
	s[w.IPv6] = w.Subject
	k.owns(Change{New: w})
	return w
}

// denying is a policy for a namespace that denies a network.
func denying(name, namespace, network string) policy.Policy {
	return policy.Policy{Name: name, Subject: policy.Subject{Namespace: namespace},
		Egress: []policy.Rule{{Action: policy.Deny, Networks: []netip.Prefix{netip.MustParsePrefix(network)}}}}
}

func compiled(t *testing.T, ledger *policy.Ledger, all ...policy.Policy) *policy.Table {
	t.Helper()
	table, err := policy.Compile(all, ledger)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// denied says what a workload may not reach of two networks.
func denied(e *Engine, w *Workload) (list string) {
	entry := e.Table().Get(w.IPv6)
	if entry == nil {
		return "gone"
	}
	for i, a := range []string{"192.0.2.1", "203.0.113.1"} {
		q := policy.Packet{Out: true, Client: true, Proto: 6, Remote: mapping.Addr4From(netip.MustParseAddr(a))}
		if n := entry.Policy(); n != 0 && !e.Policy().Judge(n, &q).Allow {
			list += fmt.Sprint(i)
		}
	}
	return list
}

func wantDenied(t *testing.T, e *Engine, want map[*Workload]string) {
	t.Helper()
	for w, list := range want {
		if got := denied(e, w); got != list {
			t.Errorf("%s is denied %q, want %q", w.Subject.Name, got, list)
		}
	}
}

// TestPolicies: workloads come and are called otherwise, and policies change, also while
// workloads come; each is held to what is in force, in daemon and kernel.
func TestPolicies(t *testing.T) {
	t.Parallel()
	ledger := policy.NewLedger()
	state := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
	state.Translator.Policy = compiled(t, ledger, denying("first", "a", "192.0.2.0/24"))
	k, e := newFake(t, state)
	known := subjects{}
	e.parts.Subjects = known.all
	a, b := known.heldWorkload(k, 1, "a/x"), known.heldWorkload(k, 2, "b/x")
	for _, w := range []*Workload{a, b} {
		if err := e.Edit(Change{New: w}); err != nil {
			t.Fatal(err)
		}
	}
	wantDenied(t, e, map[*Workload]string{a: "0", b: ""})
	renamed := *b
	renamed.Subject.Name = "a/y"
	known[b.IPv6] = renamed.Subject
	if err := e.Moved(*b, renamed); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, e, map[*Workload]string{a: "0", &renamed: "0"})

	// The same names with other rules: nobody has another number.
	rules := *state
	rules.Translator.Policy = compiled(t, ledger, denying("first", "a", "203.0.113.0/24"))
	k.calls = nil
	commit(t, e, &rules)
	wantDenied(t, e, map[*Workload]string{a: "1", &renamed: "1"})
	for _, call := range k.calls {
		if call == "fast path plan" {
			t.Errorf("all is written anew for other rules: %v", k.calls)
		}
	}

	// Another selects some, while one comes and one is called otherwise.
	other := *state
	other.Translator.Policy = compiled(t, ledger, denying("first", "a", "203.0.113.0/24"), denying("second", "", "192.0.2.0/24"))
	c, d := known.heldWorkload(k, 3, "c/x"), known.heldWorkload(k, 4, "d/x")
	delete(known, c.IPv6)
	delete(known, d.IPv6)
	k.during["fast path plan"] = func() {
		if err := e.Edit(Change{New: c}); err != nil {
			t.Error(err)
		}
		wantDenied(t, e, map[*Workload]string{a: "1", c: ""})
	}
	k.during["guard commit"] = func() {}
	commit(t, e, &other)
	wantDenied(t, e, map[*Workload]string{a: "01", &renamed: "01", c: "0"})
	if err := e.Edit(Change{New: d}); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, e, map[*Workload]string{d: "0"})
	known[c.IPv6], known[d.IPv6] = c.Subject, d.Subject

	// None: nobody is held to anything.
	none := *state
	none.Translator.Policy = nil
	commit(t, e, &none)
	wantDenied(t, e, map[*Workload]string{a: "", &renamed: "", c: "", d: ""})
}

// commit puts a state into force and holds the parts against each other.
func commit(t *testing.T, e *Engine, s *State) {
	t.Helper()
	p, err := e.Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if !e.Policy().Same(s.Translator.Policy) {
		t.Error("other policies are in force")
	}
	if f := e.parts.FastPath.(fakeFastPath); f.config.Policy != e.Policy() {
		t.Error("the fast path has other policies")
	}
}

// TestPoliciesBack: whatever step of a commit fails, everybody is held to what was in
// force, also who came meanwhile.
func TestPoliciesBack(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"guard plan", "fast path planned", "guard commit", "reload", "replace", "routes", "configure"} {
		ledger := policy.NewLedger()
		state := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
		state.Translator.Policy = compiled(t, ledger, denying("first", "a", "192.0.2.0/24"))
		k, e := newFake(t, state)
		known := subjects{}
		e.parts.Subjects = known.all
		a, b := known.heldWorkload(k, 1, "a/x"), known.heldWorkload(k, 2, "b/x")
		for _, w := range []*Workload{a, b} {
			if err := e.Edit(Change{New: w}); err != nil {
				t.Fatal(err)
			}
		}
		next := *state
		next.Translator.Policy = compiled(t, ledger, denying("first", "a", "203.0.113.0/24"), denying("second", "b", "192.0.2.0/24"))
		c := known.heldWorkload(k, 3, "b/y")
		delete(known, c.IPv6)
		k.during["fast path plan"] = func() {
			if err := e.Edit(Change{New: c}); err != nil {
				t.Error(err)
			}
		}
		failed := false
		k.refuse = func(name string) bool {
			if name == call && !failed && name != "edit" {
				failed = true
				return true
			}
			return false
		}
		p, err := e.Plan(&next)
		if err == nil {
			err = p.Commit()
		}
		k.refuse = nil
		if !failed {
			continue // no such step here
		}
		if err == nil {
			t.Errorf("%s is refused, and all went well", call)
		}
		wantDenied(t, e, map[*Workload]string{a: "0", b: ""})
		if denied(e, c) != "gone" {
			wantDenied(t, e, map[*Workload]string{c: ""})
		}
	}
}

// TestPoliciesBackBehind: who comes behind the swap, by policies that then do not stay in
// force, is held to those before, whether tables were edited or replaced.
func TestPoliciesBackBehind(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"64:ff9b::/96", "2001:db8:64::/96"} {
		ledger := policy.NewLedger()
		state := stateOf(t, "64:ff9b::/96", 1500, explicit(1))
		state.Translator.Policy = compiled(t, ledger, denying("first", "a", "192.0.2.0/24"))
		k, e := newFake(t, state)
		known := subjects{}
		e.parts.Subjects = known.all
		next := stateOf(t, prefix, 1500, explicit(1))
		next.Translator.Policy = compiled(t, ledger, denying("first", "a", "203.0.113.0/24"), denying("second", "b", "192.0.2.0/24"))
		a, b := known.heldWorkload(k, 1, "a/late"), known.heldWorkload(k, 2, "b/late")
		clear(known)
		k.during["routes"] = func() {
			for _, w := range []*Workload{a, b} {
				if err := e.Edit(Change{New: w}); err != nil {
					t.Error(err)
				}
			}
			wantDenied(t, e, map[*Workload]string{a: "1", b: "0"})
		}
		k.refuse = func(name string) bool { return name == "routes" }
		p, err := e.Plan(next)
		if err == nil {
			err = p.Commit()
		}
		if err == nil {
			t.Errorf("%s: routes are refused, and all went well", prefix)
		}
		wantDenied(t, e, map[*Workload]string{a: "0", b: ""})
		if e.Table().Prefix() != state.Explicit.Prefix() || k.config.Policy != e.Policy() {
			t.Errorf("%s: the prefix is %v, and the fast path has other policies", prefix, e.Table().Prefix())
		}
	}
}
