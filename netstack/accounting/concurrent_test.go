package accounting

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// host is a dataplane as far as accounts know one: loops that find a workload's
// slot in the table in force, and count there a little later.
type host struct {
	counters []atomic.Uint64
	before   []uint64                       // what others had counted at a slot
	table    atomic.Pointer[map[int]uint32] // by workload
}

func (h *host) at(slot uint32) Usage { return usage(h.counters[slot].Load()) }

func (h *host) loop(ctx context.Context, rnd *rand.Rand, workloads int) {
	for ctx.Err() == nil {
		slot, there := (*h.table.Load())[rnd.IntN(workloads)]
		if rnd.IntN(16) == 0 {
			runtime.Gosched() // with a table in the hands that is old by now
		}
		if there {
			h.counters[slot].Add(1)
		}
	}
}

// watch reads accounts all the time, in which nothing may fall.
func watch(ctx context.Context, t *testing.T, a *Accounting, reads *atomic.Int32) {
	seen, others := map[uint64]Usage{}, Usage{}
	check := func(serial uint64, u Usage) {
		if u.Sent.Packets < seen[serial].Sent.Packets {
			t.Errorf("assignment %d had used %+v, and then %+v", serial, seen[serial], u)
		}
		seen[serial] = u
	}
	for ; ctx.Err() == nil; reads.Add(1) {
		items, rest := a.Items()
		for serial, u := range items {
			check(serial, u)
		}
		if rest.Sent.Packets < others.Sent.Packets {
			t.Errorf("the others had used %+v, and then %+v", others, rest)
		}
		others = rest
		for serial := range a.All() {
			if u, ok := a.Usage(serial); ok {
				check(serial, u)
			}
		}
	}
}

// Tables are edited, and others put in their place, while packets are counted and
// accounts are read. When all is quiet, each workload has used what it sent, and
// no packet of another's. Where its slot has changed, those are missing that were
// counted around that moment.
func TestWhileCounting(t *testing.T) {
	t.Parallel()
	for _, moving := range []bool{false, true} {
		t.Run(fmt.Sprintf("moving=%v", moving), func(t *testing.T) { t.Parallel(); whileCounting(t, moving) })
	}
}

func whileCounting(t *testing.T, moving bool) {
	const workloads, most, edits, slots = 40, 8, 1000, 1 << 18
	rnd := rand.New(rand.NewPCG(9, 9))
	h := &host{counters: make([]atomic.Uint64, slots), before: make([]uint64, slots)}
	for i := range h.counters {
		h.before[i] = rnd.Uint64N(100)
		h.counters[i].Store(h.before[i])
	}
	h.table.Store(&map[int]uint32{})
	a := New(most, func(func(Place) bool) {}, h.at)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() { h.loop(ctx, rand.New(rand.NewPCG(uint64(i), 1)), workloads) })
	}
	var reads atomic.Int32
	all.Go(func() { watch(ctx, t, a, &reads) })

	e := editor{host: h, a: a, serials: map[int]uint64{}, slots: map[uint64][]uint32{}}
	for i := 0; (i < edits || reads.Load() < 3) && e.slot < slots-2*workloads; i++ {
		e.edit(rnd.IntN(workloads), rnd.IntN(3) == 0)
		if rnd.IntN(50) == 0 {
			e.renumber(t, moving)
		}
	}
	stop()
	all.Wait()
	for w, serial := range e.serials {
		sent := uint64(0)
		for _, slot := range e.slots[serial] {
			sent += h.counters[slot].Load() - h.before[slot]
		}
		got, ok := a.Usage(serial)
		if !ok || got.Sent.Packets > sent || !moving && got != usage(sent) {
			t.Errorf("workload %d used %+v, want %d", w, got.Sent, sent)
		}
	}
	if n := reads.Load(); n < 3 {
		t.Errorf("read %d times: this proves nothing", n)
	}
}

// editor makes changes one after the other. It never gives a slot twice, since no
// time passes between its edits.
type editor struct {
	*host
	a       *Accounting
	serials map[int]uint64      // by workload
	slots   map[uint64][]uint32 // that the workload has had, by its assignment's serial
	serial  uint64
	slot    uint32
}

func (e *editor) fresh() uint32 { e.slot++; return e.slot }

func (e *editor) edit(w int, leave bool) {
	table := maps.Clone(*e.table.Load())
	slot, there := table[w]
	c := Change{Old: e.serials[w]}
	if there && leave {
		delete(table, w)
		delete(e.serials, w)
	} else {
		if !there {
			slot = e.fresh()
		}
		e.serial++
		c.New, c.Slot = e.serial, slot
		table[w], e.serials[w] = slot, e.serial
		e.slots[e.serial] = e.slots[c.Old]
		if !there {
			e.slots[e.serial] = []uint32{slot}
		}
	}
	e.a.Change(c)
	e.table.Store(&table)
}

func (e *editor) renumber(t *testing.T, moving bool) {
	table := maps.Clone(*e.table.Load())
	if moving {
		for w := range table {
			table[w] = e.fresh()
			s := e.slots[e.serials[w]]
			e.slots[e.serials[w]] = append(s[:len(s):len(s)], table[w])
		}
	}
	r := e.a.Plan(e.places(table))
	if err := r.Commit(func() error { e.table.Store(&table); return nil }); err != nil {
		t.Error(err)
	}
}

func (e *editor) places(table map[int]uint32) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		for w, slot := range table {
			if !yield(Place{Serial: e.serials[w], Slot: slot}) {
				return
			}
		}
	}
}
