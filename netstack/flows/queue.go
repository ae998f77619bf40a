package flows

import (
	"sync/atomic"
	"time"
)

// Queue hands the table of one loop over to who collects. Neither waits for the
// other with a lock in hand: the loop takes its table before a batch and gives it
// back after it; in between, whoever wants it leaves another one in next.
type Queue struct {
	idle atomic.Pointer[Table] // the loop's, between batches; nil while it has it
	next atomic.Pointer[Table] // what the loop is to go on with
	full atomic.Pointer[Table] // what it had before
	part atomic.Int32          // of 256, that is filled
}

// NewQueue makes a queue with its first table.
func NewQueue(room, sample int) *Queue {
	q := &Queue{}
	q.idle.Store(NewTable(room, sample))
	return q
}

// Begin is the loop's: it gives the table for a batch.
func (q *Queue) Begin() *Table {
	t := q.idle.Swap(nil)
	if next := q.next.Swap(nil); next != nil {
		q.full.Store(t)
		t = next
	}
	return t
}

// End is the loop's: the batch is done.
func (q *Queue) End(t *Table) {
	q.part.Store(int32(len(t.entries) << 8 / cap(t.entries)))
	q.idle.Store(t)
}

// Filled is which part of the table is in use, of 256, after the last batch.
func (q *Queue) Filled() int { return int(q.part.Load()) }

// patience is for how long a loop may be in one batch; then its table stays its own
// until the next time.
const patience = 100 * time.Millisecond

// Take takes the table away that the loop has filled, and leaves an empty one. nil:
// the loop is stuck. One goroutine at a time calls it.
func (q *Queue) Take(empty *Table) *Table {
	var since time.Time
	for {
		if t := q.idle.Load(); t != nil && q.idle.CompareAndSwap(t, empty) {
			q.part.Store(0)
			return t // the loop sleeps, or reads
		}
		q.next.Store(empty)
		time.Sleep(50 * time.Microsecond)
		if q.next.Swap(nil) == nil { // it has taken it
			for q.full.Load() == nil { // and puts the other one down just now
				time.Sleep(time.Microsecond)
			}
			return q.full.Swap(nil)
		}
		if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > patience {
			return nil
		}
	}
}
