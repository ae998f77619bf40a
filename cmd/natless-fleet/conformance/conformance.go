// Package conformance has what every store must do, for the tests of each.
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// patience is how long what must come may take on a busy machine.
const patience = time.Minute

// Run holds a store against all of it. open gives it empty, and as another client sees it.
func Run(t *testing.T, open func(t *testing.T) (a, b fleet.Store)) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, a, b fleet.Store)
	}{
		{"Objects", objects}, {"Conflicts", conflicts}, {"SpecAndStatus", specAndStatus}, {"Revisions", revisions},
		{"WatchOne", watchOne}, {"WatchAll", watchAll}, {"WatchEnds", watchEnds}, {"OneWins", oneWins}, {"ManyObjects", manyObjects},
		{"Lends", lends}, {"Relays", relays}, {"Finalizers", finalizers}, {"Notes", notes}, {"Deleted", deleted},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := open(t)
			c.test(t, a, b)
		})
	}
}

func block(n int) fleet.Block {
	prefix := fmt.Sprintf("198.51.%d.%d/32", n/256, n%256)
	return fleet.Block{Name: fleet.NameOf(prefix), Spec: fleet.BlockSpec{Pool: "lent", IPv4: prefix, Host: "one", Lease: 1, State: fleet.Reserved}}
}

func create(t *testing.T, s fleet.Store, b fleet.Block) fleet.Block {
	t.Helper()
	made, err := fleet.Create(t.Context(), s, fleet.Blocks, b)
	if err != nil {
		t.Fatal(err)
	}
	if made.Version == "" || made.Name != b.Name || made.Spec != b.Spec {
		t.Fatalf("made %+v of %+v", made, b)
	}
	return made
}

func get(t *testing.T, s fleet.Store, name string) fleet.Block {
	t.Helper()
	b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](t.Context(), s, fleet.Blocks, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

func objects(t *testing.T, a, b fleet.Store) {
	_, err := a.Get(t.Context(), fleet.Blocks, "none")
	is(t, err, fleet.ErrNotFound)
	made := create(t, a, block(1))
	if got := get(t, b, made.Name); !reflect.DeepEqual(got, made) {
		t.Errorf("the other reads %+v, made was %+v", got, made)
	}
	_, err = fleet.Create(t.Context(), b, fleet.Blocks, block(1))
	is(t, err, fleet.ErrExists)
	made.Spec.State = fleet.Lent
	changed, err := fleet.Update(t.Context(), b, fleet.Blocks, made)
	if err != nil || changed.Version == made.Version || changed.Spec.State != fleet.Lent {
		t.Fatalf("%+v, %v", changed, err)
	}
	if got := get(t, a, made.Name); !reflect.DeepEqual(got, changed) {
		t.Errorf("%+v, want %+v", got, changed)
	}
	if err := fleet.Delete(t.Context(), a, fleet.Blocks, changed); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(t.Context(), fleet.Blocks, made.Name)
	is(t, err, fleet.ErrNotFound)
	again := create(t, b, block(1))
	if again.Version == made.Version || again.Version == changed.Version {
		t.Error("another object has the version of one before")
	}
}

func conflicts(t *testing.T, a, b fleet.Store) {
	old := create(t, a, block(1))
	next := old
	next.Spec.State = fleet.Lent
	now, err := fleet.Update(t.Context(), b, fleet.Blocks, next)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fleet.Update(t.Context(), a, fleet.Blocks, old)
	is(t, err, fleet.ErrConflict)
	is(t, fleet.Delete(t.Context(), a, fleet.Blocks, old), fleet.ErrConflict)
	if got := get(t, a, old.Name); !reflect.DeepEqual(got, now) {
		t.Errorf("%+v, want %+v", got, now)
	}
	if err := fleet.Delete(t.Context(), a, fleet.Blocks, now); err != nil {
		t.Fatal(err)
	}
	is(t, fleet.Delete(t.Context(), a, fleet.Blocks, now), fleet.ErrNotFound)
	_, err = fleet.Update(t.Context(), b, fleet.Blocks, now)
	is(t, err, fleet.ErrNotFound)
	// Gone and made anew is changed, too.
	create(t, b, block(1))
	_, err = fleet.Update(t.Context(), a, fleet.Blocks, now)
	is(t, err, fleet.ErrConflict)
	is(t, fleet.Delete(t.Context(), a, fleet.Blocks, now), fleet.ErrConflict)
}

func specAndStatus(t *testing.T, a, b fleet.Store) {
	ctx := t.Context()
	h, err := fleet.Create(ctx, a, fleet.Hosts, fleet.Host{Name: "one", Status: fleet.HostStatus{Error: "not there at first"}})
	if err != nil || h.Status.Error != "" {
		t.Fatalf("%+v, %v", h, err)
	}
	h.Spec.Epoch, h.Status.Error = 3, "of who writes the spec"
	h, err = fleet.Update(ctx, b, fleet.Hosts, h)
	if err != nil || h.Spec.Epoch != 3 || h.Status.Error != "" {
		t.Errorf("%+v, %v", h, err)
	}
	stale := h
	h.Spec.Epoch, h.Status.Held = 9, []fleet.Held{{IPv4: "198.51.100.1/32", Pool: "lent", Lease: 4}}
	h, err = fleet.UpdateStatus(ctx, a, fleet.Hosts, h)
	if err != nil || h.Spec.Epoch != 3 || len(h.Status.Held) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
	_, err = fleet.Update(ctx, b, fleet.Hosts, stale) // whoever writes the spec has seen the status
	is(t, err, fleet.ErrConflict)
	_, err = fleet.UpdateStatus(ctx, b, fleet.Hosts, stale)
	is(t, err, fleet.ErrConflict)
	h.Spec.Drain = true
	if h, err = fleet.Update(ctx, b, fleet.Hosts, h); err != nil || len(h.Status.Held) != 1 || !h.Spec.Drain {
		t.Errorf("%+v, %v", h, err)
	}
}

// finalizers keep an object that was deleted until the last of them is gone.
func finalizers(t *testing.T, a, b fleet.Store) {
	ctx := t.Context()
	one := block(1)
	one.Finalizers = []string{fleet.Finalizer, "example.org/other"}
	one = create(t, a, one)
	ch, err := b.Watch(ctx, fleet.Blocks, one.Name, number(t, one.Version))
	if err != nil {
		t.Fatal(err)
	}
	if err := fleet.Delete(ctx, b, fleet.Blocks, one); err != nil {
		t.Fatal(err)
	}
	if e := await(t, ch, one.Name); e.Gone || !e.Object.Deleting {
		t.Errorf("%+v", e)
	}
	is(t, fleet.Delete(ctx, b, fleet.Blocks, one), fleet.ErrConflict)
	now := get(t, a, one.Name)
	if !now.Deleting || len(now.Finalizers) != 2 || now.Version == one.Version {
		t.Fatalf("%+v", now)
	}
	if err := fleet.Delete(ctx, b, fleet.Blocks, now); err != nil {
		t.Errorf("deleted again: %v", err)
	}
	now = get(t, b, one.Name)
	now.Spec.State, now.Finalizers = fleet.Lent, now.Finalizers[1:]
	if now, err = fleet.Update(ctx, b, fleet.Blocks, now); err != nil || now.Spec.State != fleet.Lent || !now.Deleting || len(now.Finalizers) != 1 {
		t.Fatalf("%+v, %v", now, err)
	}
	now.Finalizers = nil
	if _, err = fleet.Update(ctx, a, fleet.Blocks, now); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(ctx, fleet.Blocks, one.Name)
	is(t, err, fleet.ErrNotFound)
	for e := await(t, ch, one.Name); !e.Gone; e = await(t, ch, one.Name) {
	}
	if again := create(t, b, block(1)); again.Deleting || len(again.Finalizers) > 0 {
		t.Errorf("%+v", again)
	}
}

// notes are what people are told of an object.
func notes(t *testing.T, a, b fleet.Store) {
	if _, err := fleet.Create(t.Context(), a, fleet.Hosts, fleet.Host{Name: "noted"}); err != nil {
		t.Fatal(err)
	}
	r, keeps := a.(fleet.Recorder)
	other, reads := b.(fleet.Recorder)
	if !keeps || !reads {
		t.Fatal("it keeps no notes")
	}
	for n, warning := range []bool{false, true} {
		if err := r.Record(t.Context(), fleet.Note{Kind: fleet.Hosts, Name: "noted", Warning: warning, Reason: "Tried", Message: fmt.Sprint("message ", n), Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := other.Notes(t.Context())
	all = slices.DeleteFunc(all, func(n fleet.Note) bool { return n.Name != "noted" })
	if err != nil || len(all) != 2 || all[0].Warning == all[1].Warning || all[0].Kind != fleet.Hosts || all[0].Reason != "Tried" || all[0].Message == all[1].Message {
		t.Errorf("%+v, %v", all, err)
	}
}

func number(t *testing.T, version string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		t.Fatalf("a version: %v", err)
	}
	return n
}

// revisions are what the numbers of loans are made of, and what relays acknowledge: that of
// a list is no lower than any object's in it, and lower than that of any change after it.
func revisions(t *testing.T, a, b fleet.Store) {
	last := uint64(0)
	for n := range 5 {
		made := create(t, a, block(n))
		all, revision, err := b.List(t.Context(), fleet.Blocks)
		if err != nil || len(all) != n+1 || revision <= last {
			t.Fatalf("%d objects at %d, behind %d: %v", len(all), revision, last, err)
		}
		if all[n].Name != made.Name || all[n].Version != made.Version {
			t.Errorf("%+v, want %+v", all[n], made)
		}
		if v := number(t, made.Version); v > revision || v <= last {
			t.Errorf("version %d in a list of %d, behind %d", v, revision, last)
		}
		last = revision
	}
	if err := fleet.Delete(t.Context(), a, fleet.Blocks, get(t, a, block(2).Name)); err != nil {
		t.Fatal(err)
	}
	all, revision, err := b.List(t.Context(), fleet.Blocks)
	if err != nil || len(all) != 4 || revision <= last {
		t.Errorf("%d objects at %d, behind %d: %v", len(all), revision, last, err)
	}
	if hosts, _, err := a.List(t.Context(), fleet.Hosts); err != nil || len(hosts) != 0 {
		t.Errorf("of another kind: %v, %v", hosts, err)
	}
}

// await gives the next event of an object.
func await(t *testing.T, ch <-chan fleet.Event, name string) fleet.Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e, open := <-ch:
			if !open {
				t.Fatalf("the watch ended before %s", name)
			}
			if e.Object.Name == name {
				return e
			}
		case <-deadline:
			t.Fatalf("nothing of %s", name)
		}
	}
}

func watchOne(t *testing.T, a, b fleet.Store) {
	other, one := create(t, a, block(1)), create(t, a, block(2))
	_, revision, err := a.List(t.Context(), fleet.Blocks)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := a.Watch(t.Context(), fleet.Blocks, one.Name, revision)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*fleet.Block{&other, &one} {
		o.Spec.State = fleet.Lent
		if *o, err = fleet.Update(t.Context(), b, fleet.Blocks, *o); err != nil {
			t.Fatal(err)
		}
	}
	e := <-ch
	var spec fleet.BlockSpec
	if err := json.Unmarshal(e.Object.Spec, &spec); err != nil || e.Object.Name != one.Name || e.Object.Version != one.Version || spec != one.Spec {
		t.Errorf("%+v, want %+v", e, one)
	}
	if err := fleet.Delete(t.Context(), b, fleet.Blocks, one); err != nil {
		t.Fatal(err)
	}
	if e := await(t, ch, one.Name); !e.Gone || number(t, e.Object.Version) <= number(t, one.Version) {
		t.Errorf("%+v, was %+v", e, one)
	}
}

func watchAll(t *testing.T, a, b fleet.Store) {
	_, revision, err := a.List(t.Context(), fleet.Blocks)
	if err != nil {
		t.Fatal(err)
	}
	before := create(t, b, block(1)) // behind the revision, and before the watch
	ch, err := a.Watch(t.Context(), fleet.Blocks, "", revision)
	if err != nil {
		t.Fatal(err)
	}
	await(t, ch, before.Name)
	for n := 2; n < 20; n++ {
		create(t, b, block(n))
	}
	for n := 2; n < 20; n++ {
		if e := await(t, ch, block(n).Name); e.Gone {
			t.Errorf("%+v", e)
		}
	}
}

func watchEnds(t *testing.T, a, _ fleet.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	_, revision, err := a.List(ctx, fleet.Hosts)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := a.Watch(ctx, fleet.Hosts, "", revision)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case _, open := <-ch:
		if open {
			t.Error("something was told")
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}

// oneWins: of many who write at once by the same version, one does.
func oneWins(t *testing.T, a, b fleet.Store) {
	made := create(t, a, block(1))
	var mu sync.Mutex
	won := 0
	var all sync.WaitGroup
	for n := range 16 {
		s := []fleet.Store{a, b}[n%2]
		all.Go(func() {
			next := made
			next.Spec.State = fleet.Lent
			_, err := fleet.Update(t.Context(), s, fleet.Blocks, next)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, fleet.ErrConflict) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won != 1 {
		t.Errorf("%d have won", won)
	}
}

// manyObjects are more than a page of a list has.
func manyObjects(t *testing.T, a, b fleet.Store) {
	const many = 1100
	var all sync.WaitGroup
	for w := range 10 {
		all.Go(func() {
			for n := w; n < many; n += 10 {
				if _, err := fleet.Create(t.Context(), a, fleet.Blocks, block(n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	got, _, err := fleet.List[fleet.BlockSpec, fleet.BlockStatus](t.Context(), b, fleet.Blocks)
	if err != nil || len(got) != many {
		t.Fatalf("%d of %d, %v", len(got), many, err)
	}
	names := map[string]bool{}
	for _, one := range got {
		names[one.Name] = true
	}
	if len(names) != many || !slices.IsSortedFunc(got, func(a, b fleet.Block) int { return cmpNames(a.Name, b.Name) }) {
		t.Errorf("%d names, or in no order", len(names))
	}
}

func cmpNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
