package accounting

import (
	"iter"
	"maps"
)

// Usage is what an assignment has used, with what those had used that it
// succeeds; false where there is no account.
func (a *Accounting) Usage(serial uint64) (u Usage, ok bool) {
	for {
		w, known := a.find(serial)
		if !known || w.slot == 0 {
			return w.brought, known
		}
		u = w.brought.Plus(a.counts(w.slot).since(w.base))
		if again, _ := a.find(serial); again == w { // it was its slot all the time
			return u, true
		}
	}
}

// find notes where an account is. Its counters are not read here: nobody waits
// for the kernel with the lock in his hands.
func (a *Accounting) find(serial uint64) (w row, known bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	slot, known := a.slots[serial]
	if !known || slot == 0 {
		return row{brought: a.apart[serial].Usage}, known
	}
	return a.chunks[slot/chunkSlots].row(slot), true
}

// Serial is the assignment whose account is at a slot, or 0.
func (a *Accounting) Serial(slot uint32) uint64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n := int(slot / chunkSlots); n < len(a.chunks) {
		return a.chunks[n].serial[slot%chunkSlots]
	}
	return 0
}

// Len is how many accounts there are.
func (a *Accounting) Len() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.slots)
}

// All yields every account, in no order. Changes go on meanwhile: one that comes
// or goes then may be among them or not.
func (a *Accounting) All() iter.Seq2[uint64, Usage] {
	return func(yield func(uint64, Usage) bool) {
		var r reader
		for n := 0; r.read(a, n); n++ {
			for i := range r.rows {
				if row := &r.rows[i]; row.serial != 0 && !yield(row.serial, row.brought.Plus(row.here)) {
					return
				}
			}
		}
		for serial, who := range a.without() {
			if !yield(serial, who.Usage) {
				return
			}
		}
	}
}

// Items gives those that are told one by one, and what all others have used that
// ever were, which never falls.
func (a *Accounting) Items() (items map[uint64]Usage, others Usage) {
	const patience = 3 // accounts that change their places could be seen twice, or not at all
	for try := 0; ; try++ {
		before := a.moved()
		items, others = a.once()
		if try == patience || a.moved() == before {
			return items, others
		}
	}
}

func (a *Accounting) once() (items map[uint64]Usage, others Usage) {
	items = make(map[uint64]Usage)
	var r reader
	for n := 0; r.read(a, n); n++ {
		others = others.Plus(r.others)
		for i := range r.rows {
			switch row := &r.rows[i]; {
			case row.state&item == 0:
				others = others.Plus(row.here)
			case row.serial != 0:
				items[row.serial] = row.brought.Plus(row.here)
			}
		}
	}
	for serial, who := range a.without() {
		if who.item {
			items[serial] = who.Usage
		}
	}
	return items, others
}

func (a *Accounting) moved() uint64 {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.moves
}

// without gives the accounts that have no slot now.
func (a *Accounting) without() map[uint64]account {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return maps.Clone(a.apart)
}

// reader reads a chunk after the other. It holds the lock while it notes what the
// accounts are, not while it reads the counters, of which some are in the kernel:
// where a chunk has changed meanwhile, it is read again.
type reader struct {
	rows   []row
	others Usage
}

type row struct {
	serial        uint64
	slot          uint32
	state         state
	base, brought Usage
	here          Usage
}

// read reads the n-th chunk. false: there is none.
func (r *reader) read(a *Accounting, n int) bool {
	const patience = 3 // then changes wait, for as long as one chunk takes
	for try := 0; ; try++ {
		version, ok := r.note(a, n, try == patience)
		if !ok {
			return false
		}
		if try == patience {
			return true
		}
		r.count(a)
		a.mu.RLock()
		same := a.chunks[n].version == version
		a.mu.RUnlock()
		if same {
			return true
		}
	}
}

// note notes the accounts of a chunk, and counts, too, where nothing may change
// meanwhile.
func (r *reader) note(a *Accounting, n int, count bool) (version uint64, ok bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n >= len(a.chunks) {
		return 0, false
	}
	c := a.chunks[n]
	r.rows, r.others = r.rows[:0], c.others
	for i, s := range c.state {
		if s == 0 {
			continue
		}
		r.rows = append(r.rows, c.row(uint32(n*chunkSlots+i)))
	}
	if count {
		r.count(a)
	}
	return c.version, true
}

func (r *reader) count(a *Accounting) {
	for i := range r.rows {
		w := &r.rows[i]
		w.here = a.counts(w.slot).since(w.base)
	}
}

// row is what is noted of a slot.
func (c *chunk) row(slot uint32) row {
	i := slot % chunkSlots
	w := row{serial: c.serial[i], slot: slot, state: c.state[i]}
	if c.base != nil {
		w.base = c.base[i]
	}
	if len(c.brought) > 0 {
		w.brought = c.brought[i]
	}
	return w
}
