package accounting

import (
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// counters is what was counted by slot, whoever had it.
type counters []Usage

func (c counters) at(slot uint32) Usage { return c[slot] }

func (c counters) add(slot uint32, n uint64) { c[slot] = c[slot].Plus(usage(n)) }

func usage(n uint64) Usage {
	return Usage{Sent: Count{n, 100 * n}, Received: Count{2 * n, 300 * n}, Violations: 5 * n}
}

// life is a workload's assignment as the model knows it.
type life struct {
	serial uint64
	slot   uint32
	used   uint64
	item   bool
}

// model does to accounts what a daemon does, and knows by itself what comes of it.
type model struct {
	t        *testing.T
	rnd      *rand.Rand
	counters counters
	accounts *Accounting
	most     int
	live     map[int]*life // by workload
	all      []uint32      // slots
	free     []uint32      // of them, the one that is free for longest first
	serial   uint64
	others   uint64
	step     int
}

var errRefused = errors.New("no")

func newModel(t *testing.T, seed uint64) *model {
	const slots, most, workloads = 3 * chunkSlots, 4, 10
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), counters: make(counters, slots), most: most, live: map[int]*life{}}
	for _, s := range m.rnd.Perm(slots - 1)[:60] { // few enough that they are used again and again
		m.all = append(m.all, uint32(s+1))
	}
	m.free = slices.Clone(m.all)
	for w := range workloads { // that are there from the beginning
		m.live[w] = &life{serial: m.next(), slot: m.take(), item: w < most}
	}
	m.accounts = New(most, m.places(), m.counters.at)
	return m
}

func (m *model) next() uint64 { m.serial++; return m.serial }

func (m *model) take() uint32 {
	s := m.free[0]
	m.free = m.free[1:]
	return s
}

func (m *model) places() iter.Seq[Place] {
	return func(yield func(Place) bool) {
		for _, l := range m.live {
			if !yield(Place{Serial: l.serial, Slot: l.slot}) {
				return
			}
		}
	}
}

func (m *model) full() bool {
	n := 0
	for _, l := range m.live {
		if l.item {
			n++
		}
	}
	return n == m.most
}

func (m *model) come(w int) Change {
	l := &life{serial: m.next(), slot: m.take(), item: !m.full()}
	m.live[w] = l
	return m.change(Change{New: l.serial, Slot: l.slot})
}

func (m *model) change(c Change) Change { m.accounts.Change(c); return c }

func (m *model) leave(w int) Change {
	l := m.live[w]
	delete(m.live, w)
	c := m.change(Change{Old: l.serial})
	m.late(l)
	m.free = append(m.free, l.slot)
	return c
}

// late counts a packet that was in somebody's hands when its workload went.
func (m *model) late(l *life) {
	m.counters.add(l.slot, 1)
	if !l.item {
		m.others++
	}
}

func (m *model) succeed(w int) {
	l := m.live[w]
	c := Change{Old: l.serial, New: m.next(), Slot: l.slot}
	if m.rnd.IntN(2) == 0 {
		c.Slot = m.take()
		m.free = append(m.free, l.slot)
	}
	l.serial, l.slot = c.New, c.Slot
	m.change(c)
}

func (m *model) send(w int) {
	l, n := m.live[w], uint64(m.rnd.IntN(20))
	m.counters.add(l.slot, n)
	if l.used += n; !l.item {
		m.others += n
	}
}

// renumber puts a table in force in which workloads have other slots, other
// assignments, or none. There are edits while it is planned.
func (m *model) renumber() {
	all := slices.Clone(m.all)
	next := map[int]Place{}
	for w, l := range m.live {
		next[w] = Place{Serial: l.serial, Slot: l.slot}
	}
	m.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	stay := map[uint32]bool{}
	if m.rnd.IntN(2) == 0 { // as where the new table keeps slots
		for _, l := range m.live {
			stay[l.slot] = true
		}
	}
	spare := slices.DeleteFunc(all, func(s uint32) bool { return stay[s] })
	get := func() uint32 { s := spare[0]; spare = spare[1:]; return s }
	for w, p := range next {
		if !stay[p.Slot] {
			p.Slot = get()
		}
		switch m.rnd.IntN(12) {
		case 0:
			p.Succeeds, p.Serial = p.Serial, m.next()
		case 1:
			delete(next, w)
			continue
		}
		next[w] = p
	}
	early, c := m.rnd.IntN(20), Change{} // after the state that is planned, before the plan
	if m.live[early] == nil {
		c = m.come(early)
	}
	r := m.plan(next)
	if c.New != 0 {
		if i := slices.Index(spare, c.Slot); i >= 0 { // a table may give the same
			spare[0], spare[i] = spare[i], spare[0]
		}
		next[early] = Place{Serial: c.New, Slot: get()}
		r.Edit(c, next[early].Slot)
	}
	for range m.rnd.IntN(5) {
		w := m.rnd.IntN(20)
		_, there := m.live[w]
		p, planned := next[w]
		switch {
		case !there:
			c := m.come(w)
			next[w] = Place{Serial: c.New, Slot: get()}
			r.Edit(c, next[w].Slot)
		case there && planned && p.Succeeds == 0:
			r.Edit(m.leave(w), 0)
			delete(next, w)
		}
	}
	m.commit(r, next)
}

func (m *model) plan(next map[int]Place) *Renumbering { return m.accounts.Plan(maps.Values(next)) }

func (m *model) commit(r *Renumbering, next map[int]Place) {
	err := r.Commit(func() error {
		m.compare()
		if m.rnd.IntN(4) == 0 {
			return errRefused
		}
		return nil
	})
	if err != nil {
		return
	}
	taken := map[uint32]bool{}
	for w, l := range m.live {
		if p, stays := next[w]; stays {
			l.serial, l.slot = p.Serial, p.Slot
			taken[p.Slot] = true
		} else {
			delete(m.live, w)
		}
	}
	m.free = slices.DeleteFunc(slices.Clone(m.all), func(s uint32) bool { return taken[s] })
	m.rnd.Shuffle(len(m.free), func(i, j int) { m.free[i], m.free[j] = m.free[j], m.free[i] })
	for _, s := range m.free { // mappings that are no workload's may have these now
		m.counters.add(s, 1000)
	}
}

func (m *model) compare() {
	m.t.Helper()
	items := map[uint64]Usage{}
	all := map[uint64]Usage{}
	for w, l := range m.live {
		if got, ok := m.accounts.Usage(l.serial); !ok || got != usage(l.used) {
			m.t.Fatalf("step %d: workload %d used %+v (%v), want %+v", m.step, w, got, ok, usage(l.used))
		}
		all[l.serial] = usage(l.used)
		if l.item {
			items[l.serial] = usage(l.used)
		}
	}
	gotItems, others := m.accounts.Items()
	if !maps.Equal(gotItems, items) || others != usage(m.others) {
		m.t.Fatalf("step %d: items %v, others %+v, want %v, %+v", m.step, gotItems, others, items, usage(m.others))
	}
	if got := maps.Collect(m.accounts.All()); !maps.Equal(got, all) || m.accounts.Len() != len(all) {
		m.t.Fatalf("step %d: all %v, %d, want %v", m.step, got, m.accounts.Len(), all)
	}
}

// Whatever comes, goes, follows itself and is numbered anew, also where that is
// refused: every workload has what it used and nothing of another's, and what the
// others used together is kept.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		m := newModel(t, seed)
		renumbered := 0
		for m.step = range 1500 {
			w := m.rnd.IntN(20)
			_, there := m.live[w]
			switch what := m.rnd.IntN(20); {
			case what == 0 && (seed%2 == 0 || m.rnd.IntN(20) == 0):
				m.renumber()
				renumbered++
			case !there:
				m.come(w)
			case what < 3:
				m.leave(w)
			case what < 5:
				m.succeed(w)
			default:
				m.send(w)
			}
			m.compare()
		}
		if renumbered == 0 || m.others == 0 {
			t.Errorf("renumbered %d times, %d for the others: this proves nothing", renumbered, m.others)
		}
	}
}

// What changes while it is read is read again: the counters of a slot are those
// of whose it was before they were read and behind.
func TestReadAgain(t *testing.T) {
	for name, read := range map[string]func(a *Accounting) (uint64, uint64){
		"one":   func(a *Accounting) (uint64, uint64) { u, _ := a.Usage(1); return u.Sent.Packets, 0 },
		"items": func(a *Accounting) (uint64, uint64) { all, u := a.Items(); return all[1].Sent.Packets, u.Sent.Packets },
		"all":   func(a *Accounting) (uint64, uint64) { return maps.Collect(a.All())[1].Sent.Packets, 0 },
	} {
		c := make(counters, 3)
		var a *Accounting
		change := func() {}
		a = New(1, slices.Values([]Place{{Serial: 1, Slot: 1}}), func(slot uint32) Usage {
			do := change
			change = func() {}
			do()
			return c.at(slot)
		})
		c.add(1, 10)
		change = func() { // 1 goes, and 2 gets its slot
			a.Change(Change{Old: 1})
			a.Change(Change{New: 2, Slot: 1})
			c.add(1, 100)
		}
		if one, others := read(a); one != 0 || others != 0 {
			t.Errorf("%s: 1, which has gone, used %d, and the others %d", name, one, others)
		}
	}
}
