//go:build linux

package flowlog

import (
	"sync"
	"time"

	"github.com/natless/natless/netstack/flows"
)

// remembered is how many records are kept for who asks later.
const remembered = 32_768

// Recent is the last records, and who looks at those that come.
type Recent struct {
	mu      sync.Mutex
	ring    []flows.Record
	next    int
	viewers map[*Queue]struct{}
}

// NewRecent makes a Recent.
func NewRecent() *Recent { return &Recent{viewers: map[*Queue]struct{}{}} }

// Put takes records, and never waits.
func (r *Recent) Put(batch []flows.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		if len(r.ring) < remembered {
			r.ring = append(r.ring, batch[i])
			continue
		}
		r.ring[r.next] = batch[i]
		r.next = (r.next + 1) % remembered
	}
	for v := range r.viewers {
		v.Put(batch)
	}
}

// Room is always: who looks and is slow waits for nobody.
func (r *Recent) Room() bool { return true }

// Since gives those that ended since a time, the oldest first, and with follow a
// queue that gets what comes afterwards, until Leave.
func (r *Recent) Since(t time.Time, follow bool, wanted func(*flows.Record) bool) (all []flows.Record, next *Queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.ring {
		one := &r.ring[(r.next+i)%len(r.ring)]
		if !one.End.Before(t) && wanted(one) {
			all = append(all, *one)
		}
	}
	if follow {
		next = NewQueue()
		r.viewers[next] = struct{}{}
	}
	return all, next
}

// Leave ends what Since began.
func (r *Recent) Leave(q *Queue) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.viewers, q)
}
