//go:build linux

package dataplane

import (
	"context"
	"fmt"
	"time"
)

// lookAgain is how soon a thread that has something to do is looked at again.
const lookAgain = 20 * time.Millisecond

// Stalled names a queue whose thread does not get on, though it is looked at
// for so long; it returns as soon as all do, and at once when they sleep because
// there is nothing to do. Nobody is woken for it: a thread counts when it falls asleep and when a
// batch begins, so that one that is neither asleep nor begins another batch
// hangs in a packet, and one that sleeps though packets wait was not woken. A
// device that is being made anew is not its threads' fault.
func (d *Dataplane) Stalled(ctx context.Context, patience time.Duration) error {
	suspects, end := d.busy(), time.Now().Add(patience)
	for len(suspects) > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(patience, lookAgain)):
		}
		now := d.busy()
		for i, turns := range suspects {
			if later, ok := now[i]; !ok || later != turns {
				delete(suspects, i)
			} else if time.Now().After(end) {
				return fmt.Errorf("queue %d: its thread does not get on, after %d batches", i, turns)
			}
		}
	}
	return nil
}

// busy gives for each queue that has something to do how many batches it began.
func (d *Dataplane) busy() map[int]uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.device == nil {
		return nil
	}
	busy := make(map[int]uint64)
	for i, l := range d.loops {
		turns := l.turns.Load()
		asleep := l.queue.Counters().Waits.Load() > l.awake.Load()
		if !asleep || d.device.Pending(i) {
			busy[i] = turns
		}
	}
	return busy
}

// began notes that a batch begins, for Stalled.
func (l *loop) began() {
	l.turns.Add(1)
	l.awake.Store(l.queue.Counters().Waits.Load())
}
