package budget

import (
	"context"
	"slices"
	"sync"
)

// Turns has so many served at a time, and of one owner fewer: the others wait in
// the order in which they came, and nobody waits behind one who has as many as he
// may have.
type Turns[K comparable] struct {
	AtOnce, Each int // at a time, of all and of one owner; set before the first turn

	mu      sync.Mutex // guards what follows
	now     int
	of      map[K]int
	waiting []*waiter[K]
	refused uint64
}

type waiter[K comparable] struct {
	owner K
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
	w := &waiter[K]{owner, make(chan struct{})}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	select {
	case <-w.turn:
		return func() { t.end(owner) }, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting, w); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		t.refused++
		return nil, ctx.Err()
	}
	return func() { t.end(owner) }, nil // it came at the same moment
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
		close(w.turn)
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
}

// Refused is how many got no turn so far.
func (t *Turns[K]) Refused() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}
