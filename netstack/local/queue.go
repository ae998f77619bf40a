package local

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/natless/natless/translator"
)

// Bounds of the queue between the dataplane and the stack.
const (
	queuePackets = 256
	queueBytes   = 1 << 20
	laneBits     = 10
	lanes        = 1 << laneBits
	laneMost     = queuePackets / 2 // packets of one lane
)

// queues are one for strangers and one for workloads, and the stack takes from both
// in turn: a stranger who pretends to be thousands has thousands of lanes, and
// fills nothing but his.
type queues struct {
	wake chan struct{} // as of both
	of   [2]*queue     // by class
	turn int           // whose it was; of the goroutine that takes
	each atomic.Int64  // ns for one packet of one sender, on a host that is overloaded; 0: no limit
}

func newQueues() *queues {
	q := &queues{of: [2]*queue{newQueue(), newQueue()}}
	q.wake = q.of[0].wake
	q.of[1].wake = q.wake
	return q
}

func (q *queues) put(packet []byte, sender translator.Sender) (dropped int, ok bool) {
	if each := q.each.Load(); each != 0 && q.over(sender, each, time.Now().UnixNano()) {
		return 1, false
	}
	return q.of[class(sender)].put(packet, sender.Hash)
}

// Where a host is overloaded a packet for the stack counts as so many that are translated,
// and all strangers together, who can pretend to be thousands, are worth so many workloads.
const (
	dearness = 10
	company  = 4
)

// hold has no sender bring more than so many packets a second are worth; 0: as many as it likes.
func (q *queues) hold(perSecond float64) {
	each := int64(0)
	if perSecond > 0 {
		each = int64(float64(time.Second) / perSecond * dearness)
	}
	q.each.Store(each)
}

func (q *queues) over(sender translator.Sender, each, now int64) bool {
	if !sender.Workload {
		return q.of[class(sender)].over(0, each/company, now)
	}
	return q.of[class(sender)].over(sender.Hash, each, now)
}

// get gives the next packet, or nil. The caller gives it back by done.
func (q *queues) get() *[]byte {
	for range q.of {
		q.turn ^= 1
		if b := q.of[q.turn].get(); b != nil {
			return b
		}
	}
	return nil
}

func (q *queues) done(b *[]byte) { q.of[q.turn].done(b) }

// queue holds packets until the stack has time for them, in a lane for each
// sender, which have their turn one after the other: who floods waits behind
// himself. When all is full, the longest lane loses its oldest packet. Senders
// share a lane by chance, one pair in 1024, and then its turn. Its memory is
// fixed but for the packets, which are bounded in number and in bytes.
type queue struct {
	wake chan struct{} // has an element when there may be packets

	mu      sync.Mutex // guards what follows; held for no longer than a look at all lanes
	slots   [queuePackets]slot
	free    int16 // the first slot that holds nothing; -1: none
	lanes   [lanes]lane
	turns   [queuePackets]int16 // a ring of the lanes that hold something
	first   int                 // whose turn it is, in that ring
	active  int                 // how many they are
	packets int
	bytes   int

	spare sync.Pool // of *[]byte
}

// slot holds a packet of a lane, or is free.
type slot struct {
	packet *[]byte
	next   int16 // of the lane, or free; -1: none
}

type lane struct {
	first, last int16 // slots
	packets     int16
	until       int64 // its rate is used up
}

func newQueue() *queue {
	q := &queue{wake: make(chan struct{}, 1)}
	q.spare.New = func() any { return new([]byte) }
	for i := range q.slots {
		q.slots[i].next = int16(i) + 1
	}
	q.slots[len(q.slots)-1].next = -1
	return q
}

// over says that a packet is more than a sender may bring, at one each so many ns, and a few at
// once (the generic cell rate algorithm).
func (q *queue) over(sender uint64, each, now int64) bool {
	const few = 16
	q.mu.Lock()
	defer q.mu.Unlock()
	l := &q.lanes[sender%lanes]
	next := max(l.until, now) + each
	if next-now > few*each {
		return true
	}
	l.until = next
	return false
}

// put takes a copy of a packet from a sender. It says how many packets were
// dropped, and whether this one was.
func (q *queue) put(packet []byte, sender uint64) (dropped int, ok bool) {
	b := q.spare.Get().(*[]byte)
	*b = append((*b)[:0], packet...)
	q.mu.Lock()
	at := int16(sender % lanes)
	if q.lanes[at].packets >= laneMost || len(packet) > queueBytes/2 {
		q.mu.Unlock()
		q.done(b)
		return 1, false
	}
	for q.free < 0 || q.bytes+len(packet) > queueBytes {
		longest := q.longest()
		if longest < 0 || q.lanes[longest].packets <= q.lanes[at].packets+1 {
			q.mu.Unlock()
			q.done(b)
			return dropped + 1, false
		}
		q.done(q.pop(longest))
		dropped++
	}
	q.push(at, b)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return dropped, true
}

// get gives the packet whose turn it is, or nil. The caller gives it back by
// done.
func (q *queue) get() *[]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active == 0 {
		return nil
	}
	at := q.turns[q.first]
	b := q.pop(at)
	if q.lanes[at].packets > 0 { // to the end of the ring
		q.turns[(q.first+q.active)%len(q.turns)] = at
		q.first = (q.first + 1) % len(q.turns)
	}
	return b
}

func (q *queue) done(b *[]byte) { q.spare.Put(b) }

// longest is the lane with the most packets, of several the one whose turn comes
// last; -1: none. The caller holds mu, as for what follows.
func (q *queue) longest() int16 {
	longest := int16(-1)
	for i := range q.active {
		at := q.turns[(q.first+i)%len(q.turns)]
		if longest < 0 || q.lanes[at].packets >= q.lanes[longest].packets {
			longest = at
		}
	}
	return longest
}

func (q *queue) push(at int16, b *[]byte) {
	i := q.free
	s, l := &q.slots[i], &q.lanes[at]
	q.free = s.next
	s.packet, s.next = b, -1
	if l.packets == 0 {
		l.first = i
		q.turns[(q.first+q.active)%len(q.turns)] = at
		q.active++
	} else {
		q.slots[l.last].next = i
	}
	l.last = i
	l.packets++
	q.packets++
	q.bytes += len(*b)
}

// pop takes the oldest packet of a lane, and the lane, when it was the last,
// out of the ring.
func (q *queue) pop(at int16) *[]byte {
	l := &q.lanes[at]
	i := l.first
	s := &q.slots[i]
	b := s.packet
	l.first = s.next
	s.packet, s.next = nil, q.free
	q.free = i
	l.packets--
	q.packets--
	q.bytes -= len(*b)
	if l.packets == 0 {
		q.retire(at)
	}
	return b
}

func (q *queue) retire(at int16) {
	n := len(q.turns)
	for i := range q.active {
		if q.turns[(q.first+i)%n] != at {
			continue
		}
		for ; i > 0; i-- { // mostly it is the first
			q.turns[(q.first+i)%n] = q.turns[(q.first+i-1)%n]
		}
		q.first = (q.first + 1) % n
		q.active--
		return
	}
}
