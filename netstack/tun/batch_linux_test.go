package tun

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator"
)

// Read gives what has been read in one batch, sparse flows first. What Write reads
// meanwhile goes into the next one, and the batch that is under way stays what it is.
func TestUringBatches(t *testing.T) {
	bulk, sparse, later := new(translator.Packet), new(translator.Packet), new(translator.Packet)
	q := &uringQueue{enabled: true, intakes: []intake{{ready: []*translator.Packet{bulk}}, {ready: []*translator.Packet{sparse}, waiting: new(slot)}}}
	batch, fresh, err := q.Read()
	if len(batch) != 2 || batch[0] != sparse || batch[1] != bulk || !fresh || err != nil {
		t.Fatalf("%v, %v, %v", batch, fresh, err)
	}
	q.intakes[atBulk].ready = append(q.intakes[atBulk].ready, later) // as reap does
	if batch[0] != sparse || batch[1] != bulk {
		t.Error("the batch under way has changed")
	}
	if next, _, err := q.Read(); len(next) != 1 || next[0] != later || err != nil {
		t.Errorf("%v, %v", next, err)
	}
}

// While packets come alone, a look for more, which costs a system call and finds nothing,
// is taken after the 1st, 3rd, 7th, and then every 16th. It does not complete the read that
// waits, so it finds none at all.
func TestUringLone(t *testing.T) {
	n, looks := &intake{depth: 1}, 0
	for range 100 {
		n.ready = append(n.ready[:0], new(translator.Packet))
		n.ready[0].End = 100
		n.adapt()
		n.ready = n.ready[:0]
		if n.depth > 1 {
			looks++
			n.adapt()
		}
		n.adapt() // a packet of the other intake's came
	}
	if looks < 5 || looks > 12 {
		t.Errorf("%d looks for more after 100 packets that came alone", looks)
	}
}

// What was read when the end came goes out first, and then the end is told.
func TestUringEnd(t *testing.T) {
	a := new(translator.Packet)
	q := &uringQueue{intakes: []intake{{ready: []*translator.Packet{a}}}, ended: ErrStopped}
	if batch, _, err := q.Read(); len(batch) != 1 || err != nil {
		t.Errorf("%v, %v", batch, err)
	}
	if batch, _, err := q.Read(); batch != nil || err != ErrStopped {
		t.Errorf("%v, %v", batch, err)
	}
}

// An empty packet is only given back, and comes again from Buffer: nothing is
// written, which the descriptor that is none would tell.
func TestEmptyIsGivenBack(t *testing.T) {
	for _, q := range []queue{
		&plainQueue{common: &common{fd: -1, sparse: -1, counters: new(Counters)}},
		&uringQueue{common: &common{fd: -1, sparse: -1, counters: new(Counters)}},
	} {
		p := q.Buffer()
		p.Start, p.End = p.Start+7, p.Start+7
		q.Write([]*translator.Packet{p})
		var s Stats
		q.Counters().AddTo(&s)
		if again := q.Buffer(); again != p || again.Start != translator.Headroom || len(s.WriteErrors) != 0 {
			t.Errorf("%T: %p, want %p, Start %d, errors %v", q, again, p, again.Start, s.WriteErrors)
		}
	}
}

// A packet that is written in pieces leaves no buffer behind that the ring could
// not name.
func TestRefusedLeavesNoBuffer(t *testing.T) {
	q := &uringQueue{common: &common{fd: -1, sparse: -1, counters: new(Counters)}}
	p := q.Buffer()
	p.End += 100
	p.Flags = translator.FlagNeedsCsum
	q.refused(p, unix.EINVAL)
	if q.Release(p); len(q.free) != 1 || q.counters.Segmented.Load() != 1 {
		t.Errorf("%d buffers, %d written in pieces", len(q.free), q.counters.Segmented.Load())
	}
	if s := q.slot(q.Buffer()); q.slots[0] != s || s.index != 0 {
		t.Error("a buffer that is none of the ring's")
	}
	if s := q.slot(q.Buffer()); len(q.slots) != 2 || q.slots[1] != s || s.index != 1 {
		t.Error("another that is none of the ring's")
	}
}
