package flows

import "errors"

// errStuck says that a loop did not give its table away.
var errStuck = errors.New("a queue of the device is stuck")

// QueueSource is a queue as a source.
type QueueSource struct {
	*Queue
	spare *Table
}

// NewQueueSource makes the queue, too.
func NewQueueSource(room, sample int) *QueueSource {
	return &QueueSource{NewQueue(room, sample), NewTable(room, sample)}
}

// Drain see Source.
func (s *QueueSource) Drain(flow func(*Key, *Sum), lost func(uint32, Lost)) error {
	t := s.Take(s.spare)
	if t == nil {
		return errStuck
	}
	t.Drain(flow, lost)
	s.spare = t
	return nil
}

// Presses see Source.
func (s *QueueSource) Presses() bool { return s.Filled() > 128 }
