//go:build linux

package flowlog

import (
	"slices"
	"sync"
	"time"

	"github.com/natless/natless/netstack/flows"
)

// remembered is how many records are kept for who asks later, and refused how many of
// what policies denied, which push out nobody else's.
const (
	remembered = 32_768
	refused    = 8_192
)

// Recent is the last records, and who looks at those that come.
type Recent struct {
	mu      sync.Mutex
	ended   ring
	denied  ring
	viewers map[*Queue]struct{}
}

// ring is the last records of a kind.
type ring struct {
	most    int
	records []flows.Record
	next    int
}

func (r *ring) put(one *flows.Record) {
	if len(r.records) < r.most {
		r.records = append(r.records, *one)
		return
	}
	r.records[r.next] = *one
	r.next = (r.next + 1) % r.most
}

// since are those that ended since a time, the oldest first.
func (r *ring) since(t time.Time, wanted func(*flows.Record) bool) (all []flows.Record) {
	for i := range r.records {
		one := &r.records[(r.next+i)%len(r.records)]
		if !one.End.Before(t) && wanted(one) {
			all = append(all, *one)
		}
	}
	return all
}

// NewRecent makes a Recent.
func NewRecent() *Recent {
	return &Recent{ended: ring{most: remembered}, denied: ring{most: refused}, viewers: map[*Queue]struct{}{}}
}

// Put takes records, and never waits.
func (r *Recent) Put(batch []flows.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		switch batch[i].Verdict {
		case flows.Denied, flows.DeniedFragment:
			r.denied.put(&batch[i])
		default:
			r.ended.put(&batch[i])
		}
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
	all = r.ended.since(t, wanted)
	if denied := r.denied.since(t, wanted); denied != nil {
		all = append(all, denied...)
		slices.SortStableFunc(all, func(a, b flows.Record) int { return a.End.Compare(b.End) })
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
