package budget

import (
	"sync"
	"time"
)

// Room bounds how many stay at a time, such as open connections, by whom they
// belong to. Whoever comes is let in: where it is full, one of those who have the
// most goes, the one that has waited longest since it came or was last served. So
// who takes much pushes out nobody but himself, and who takes little finds room.
type Room[K comparable] struct {
	Most  int           // at a time; set before the first Enter
	Least time.Duration // that each may stay; set before the first Enter

	mu      sync.Mutex // guards what follows
	guests  map[*Guest[K]]struct{}
	of      map[K]int // how many guests each has
	clock   uint64
	evicted uint64
}

// Guest is one who is in a Room until Leave.
type Guest[K comparable] struct {
	room  *Room[K]
	owner K
	out   func()
	since uint64 // by the room's clock: when it began to wait
	stays time.Time
	busy  bool // is being served, and not to be sent away
	gone  bool
}

// Enter lets a guest in. Where there is no room for it, out of another guest is
// called, by the goroutine that enters, and must not wait; or else, where all
// are being served, nobody enters and the guest is nil. Enter waits until the
// one that goes has been there for Least.
func (r *Room[K]) Enter(owner K, out func()) *Guest[K] {
	g := &Guest[K]{room: r, owner: owner, out: out}
	victim, wait, ok := r.enter(g)
	for wait > 0 {
		time.Sleep(wait)
		victim, wait, ok = r.enter(g)
	}
	if victim != nil {
		victim.out()
	}
	if !ok {
		return nil
	}
	return g
}

func (r *Room[K]) enter(g *Guest[K]) (victim *Guest[K], wait time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.guests == nil {
		r.guests, r.of = map[*Guest[K]]struct{}{}, map[K]int{}
	}
	if len(r.guests) >= r.Most {
		if victim = r.victim(g.owner); victim == nil {
			return nil, 0, false
		}
		if r.Least > 0 {
			if wait = time.Until(victim.stays); wait > 0 {
				return nil, wait, false
			}
		}
		r.remove(victim)
		r.evicted++
	}
	r.clock++
	g.since = r.clock
	if r.Least > 0 {
		g.stays = time.Now().Add(r.Least)
	}
	r.guests[g] = struct{}{}
	r.of[g.owner]++
	return victim, 0, true
}

// victim is who has waited longest among those whose owner has the most, the
// coming one counted. The caller holds mu.
func (r *Room[K]) victim(coming K) (v *Guest[K]) {
	most := 0
	for g := range r.guests {
		if g.busy {
			continue
		}
		n := r.of[g.owner]
		if g.owner == coming {
			n++
		}
		if v == nil || n > most || n == most && g.since < v.since {
			v, most = g, n
		}
	}
	return v
}

func (r *Room[K]) remove(g *Guest[K]) {
	g.gone = true
	delete(r.guests, g)
	if r.of[g.owner]--; r.of[g.owner] == 0 {
		delete(r.of, g.owner)
	}
}

// Serve says that the guest is being served, until done is called: then it
// begins to wait anew.
func (g *Guest[K]) Serve() (done func()) {
	g.set(true)
	return func() { g.set(false) }
}

func (g *Guest[K]) set(busy bool) {
	r := g.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	g.busy, g.since = busy, r.clock
}

// Leave takes a guest out; it does nothing for one that was sent away.
func (g *Guest[K]) Leave() {
	r := g.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if !g.gone {
		r.remove(g)
	}
}

// Evicted is how many were sent away so far.
func (r *Room[K]) Evicted() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.evicted
}

// Len is how many are there.
func (r *Room[K]) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.guests)
}
