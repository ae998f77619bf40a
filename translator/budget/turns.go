package budget

import (
	"cmp"
	"context"
	"slices"
	"sync"
)

// Turns has so many served at a time, and of one owner fewer. The others wait, and
// nobody waits behind one who has as many as he may have, nor behind more than one
// of each owner: what an owner has waiting takes its turns between those of the
// others, however many came first (start-time fair queuing: Goyal, Vin and Cheng,
// 1996, with turns of one length).
type Turns[K comparable] struct {
	AtOnce, Each int // at a time, of all and of one owner; set before the first turn

	mu      sync.Mutex // guards what follows
	now     int
	of      map[K]int
	waiting []*waiter[K] // by round, and then as they came
	rounds  map[K]uint64 // the last round of each owner that has somebody waiting
	round   uint64       // of who had his turn last
	refused uint64
}

type waiter[K comparable] struct {
	owner K
	round uint64
	turn  chan struct{} // closed when it has come
}

// Try takes a turn if there is one at once; end gives it back.
func (t *Turns[K]) Try(owner K) (end func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.free(owner) {
		t.refused++
		return nil, false
	}
	return t.take(owner), true
}

// Wait takes a turn, and waits for it until ctx is done, whose error it gives
// then.
func (t *Turns[K]) Wait(ctx context.Context, owner K) (end func(), err error) {
	t.mu.Lock()
	if t.free(owner) {
		defer t.mu.Unlock()
		return t.take(owner), nil
	}
	w := t.queue(owner)
	t.mu.Unlock()
	select {
	case <-w.turn:
		return func() { t.end(owner) }, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, w); i >= 0 {
		t.leave(i)
		t.refused++
		return nil, ctx.Err()
	}
	return func() { t.end(owner) }, nil // it came at the same moment
}

// queue has owner wait; the caller holds mu.
func (t *Turns[K]) queue(owner K) *waiter[K] {
	if t.rounds == nil {
		t.rounds = map[K]uint64{}
	}
	w := &waiter[K]{owner, max(t.round, t.rounds[owner]) + 1, make(chan struct{})}
	t.rounds[owner] = w.round
	at, _ := slices.BinarySearchFunc(t.waiting, w.round+1, func(w *waiter[K], round uint64) int { return cmp.Compare(w.round, round) })
	t.waiting = slices.Insert(t.waiting, at, w)
	return w
}

// leave takes a waiter out; the caller holds mu.
func (t *Turns[K]) leave(i int) {
	owner := t.waiting[i].owner
	t.waiting = slices.Delete(t.waiting, i, i+1)
	if !slices.ContainsFunc(t.waiting, func(w *waiter[K]) bool { return w.owner == owner }) {
		delete(t.rounds, owner)
	}
}

// free says that owner may go; the caller holds mu. Nobody is overtaken: who
// waits does so because he may not.
func (t *Turns[K]) free(owner K) bool { return t.now < t.AtOnce && t.of[owner] < t.Each }

func (t *Turns[K]) take(owner K) (end func()) {
	if t.of == nil {
		t.of = map[K]int{}
	}
	t.now++
	t.of[owner]++
	return func() { t.end(owner) }
}

func (t *Turns[K]) end(owner K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now--
	if t.of[owner]--; t.of[owner] == 0 {
		delete(t.of, owner)
	}
	for i := 0; i < len(t.waiting) && t.now < t.AtOnce; {
		w := t.waiting[i]
		if !t.free(w.owner) {
			i++
			continue
		}
		t.take(w.owner)
		t.round = max(t.round, w.round)
		close(w.turn)
		t.leave(i)
	}
}

// Refused is how many got no turn so far.
func (t *Turns[K]) Refused() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}
