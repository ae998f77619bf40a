//go:build linux

package flowlog

import (
	"context"
	"sync/atomic"

	"github.com/natless/natless/netstack/flows"
)

// waiting is how many batches may wait for one who takes them: 131,072 records, some
// 20 MB.
const waiting = 256

// Queue holds records for one who takes his time.
type Queue struct {
	batches chan []flows.Record
	dropped atomic.Uint64
}

// NewQueue makes a queue.
func NewQueue() *Queue { return &Queue{batches: make(chan []flows.Record, waiting)} }

// Put never waits: what finds no room is dropped, and counted.
func (q *Queue) Put(batch []flows.Record) {
	select {
	case q.batches <- batch:
	default:
		q.dropped.Add(uint64(len(batch)))
	}
}

// Room says that another batch finds room.
func (q *Queue) Room() bool { return len(q.batches) < cap(q.batches) }

// Dropped is how many found no room.
func (q *Queue) Dropped() uint64 { return q.dropped.Load() }

// Next waits for a batch. false: ctx is done, and nothing waits.
func (q *Queue) Next(ctx context.Context) ([]flows.Record, bool) {
	select {
	case b := <-q.batches:
		return b, true
	default:
	}
	select {
	case b := <-q.batches:
		return b, true
	case <-ctx.Done():
		select {
		case b := <-q.batches: // put before it was done
			return b, true
		default:
			return nil, false
		}
	}
}

// Batches is for who waits for more than records.
func (q *Queue) Batches() <-chan []flows.Record { return q.batches }
