package accounting

import "iter"

// Renumbering is the step from the table in force to another: which assignments
// have another slot there, and which come and go with it. Usually that is none.
// It is made without keeping anybody waiting (Plan), is told of the edits that
// are made meanwhile (Edit), and is done around the moment when the new table
// takes the old one's place (Commit).
type Renumbering struct {
	a     *Accounting
	moves map[uint64]Place // by serial
	gone  map[uint64]bool
}

// Plan compares the accounts with the places that assignments have in another
// table. It takes time for each account, and changes nothing.
func (a *Accounting) Plan(next iter.Seq[Place]) *Renumbering {
	r := &Renumbering{a: a, moves: map[uint64]Place{}, gone: map[uint64]bool{}}
	var stay bits
	apart := map[uint64]bool{} // stay without a slot
	batch := make([]Place, 0, chunkSlots)
	compare := func() {
		a.mu.RLock()
		defer a.mu.RUnlock()
		for _, p := range batch {
			slot, known := a.slots[p.Serial]
			if known && slot == 0 {
				apart[p.Serial] = true
			} else if known {
				stay.set(slot)
			}
			if !known || slot != p.Slot {
				r.moves[p.Serial] = p
			}
		}
		batch = batch[:0]
	}
	for p := range next {
		if batch = append(batch, p); len(batch) == cap(batch) {
			compare()
		}
	}
	compare()
	var all reader
	for n := 0; all.see(a, n); n++ {
		for _, w := range all.rows {
			if w.serial != 0 && !stay.has(w.slot) {
				r.gone[w.serial] = true
			}
		}
	}
	for serial := range a.without() {
		if !apart[serial] {
			r.gone[serial] = true
		}
	}
	return r
}

// Stay is a Renumbering to a table that is an edit of the one in force: nobody has
// another slot there.
func (a *Accounting) Stay() *Renumbering {
	return &Renumbering{a: a, moves: map[uint64]Place{}, gone: map[uint64]bool{}}
}

// see notes the accounts of the n-th chunk, without their counts.
func (r *reader) see(a *Accounting, n int) bool {
	_, ok := r.note(a, n, false)
	return ok
}

// Edit follows a Change of the accounts, after it: slot is that of the change's
// new assignment in the table that is planned.
func (r *Renumbering) Edit(c Change, slot uint32) {
	for _, serial := range []uint64{c.Old, c.New} {
		delete(r.moves, serial)
		delete(r.gone, serial)
	}
	if c.New == 0 {
		return
	}
	r.a.mu.RLock()
	defer r.a.mu.RUnlock()
	if now, known := r.a.slots[c.New]; !known || now != slot {
		r.moves[c.New] = Place{Serial: c.New, Slot: slot}
	}
}

// Len is how many assignments have another slot, come or go.
func (r *Renumbering) Len() int { return len(r.moves) + len(r.gone) }

// Commit has swap put the new table in force, in the translator and in the kernel,
// with no edit meanwhile. The accounts of assignments whose slot changes stand
// still until it returns: what passes for them in between is counted for nobody,
// since nobody could say for whom. When swap fails, the table before must be in
// force again, and everything is as it was.
func (r *Renumbering) Commit(swap func() error) error {
	all := r.take()
	err := swap()
	r.put(all, err == nil)
	return err
}

// taken is an account that is on its way.
type taken struct {
	from, to Place // to.Serial 0: it ends
	account
	known bool // there was one before
	stays bool // at its slot, which succeeds it
}

// take takes the accounts that move from their slots, and settles what the new
// table may give to somebody who has no account.
func (r *Renumbering) take() []taken {
	a := r.a
	a.mu.Lock()
	defer a.mu.Unlock()
	for slot := range a.over {
		a.settle(slot, a.counts(slot))
	}
	moves := make([]taken, 0, len(r.moves))
	for _, p := range r.moves {
		t := taken{to: p, from: Place{Serial: p.Serial}}
		if t.from.Slot, t.known = a.slots[p.Serial]; !t.known && p.Succeeds != 0 {
			t.from.Serial = p.Succeeds
			t.from.Slot, t.known = a.slots[p.Succeeds]
			t.stays = t.known && t.from.Slot == p.Slot && p.Slot != 0
		}
		delete(r.gone, t.from.Serial)
		moves = append(moves, t)
	}
	all := make([]taken, 0, r.Len()) // first those that make room
	for serial := range r.gone {
		t := taken{from: Place{Serial: serial}}
		if t.from.Slot, t.known = a.slots[serial]; t.known {
			all = append(all, t)
		}
	}
	all = append(all, moves...)
	for i := range all {
		if t := &all[i]; t.known && !t.stays {
			t.account = a.detach(t.from.Serial)
			a.attach(t.from.Serial, 0, t.account, Usage{}) // where readers find it meanwhile
		}
	}
	return all
}

// put gives the accounts their new slots, or those that they had.
func (r *Renumbering) put(all []taken, done bool) {
	a := r.a
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range all {
		if t.known && !t.stays {
			a.detach(t.from.Serial)
		}
		switch {
		case !done && t.known && !t.stays:
			a.attach(t.from.Serial, t.from.Slot, t.account, a.counts(t.from.Slot))
		case !done:
		case t.stays:
			a.rename(t.from.Serial, t.to.Serial, t.to.Slot)
		case t.to.Serial != 0:
			if !t.known {
				t.item = a.admit()
			}
			a.attach(t.to.Serial, t.to.Slot, t.account, a.counts(t.to.Slot))
		case t.item:
			a.items--
		}
	}
}

// bits is a set of slots.
type bits []uint64

func (b *bits) set(slot uint32) {
	for int(slot/64) >= len(*b) {
		*b = append(*b, make([]uint64, max(1024, len(*b)))...)
	}
	(*b)[slot/64] |= 1 << (slot % 64)
}

func (b bits) has(slot uint32) bool { return int(slot/64) < len(b) && b[slot/64]>>(slot%64)&1 != 0 }
