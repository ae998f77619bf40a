// Package accounting knows who sent how much: it keeps, by the serial of an
// assignment, what dataplane, translator and kernel count by slot of the table. It
// only reads their counters. No packet depends on it, and no name, no address and
// no format for people may enter here.
//
// A slot passes from one workload to another, and its counters go on. So an
// account remembers at what count it began. Three rules keep accounts apart:
//
//   - Whoever edits the table tells of it before the new table is in force. The
//     slot that a new account gets is one that nobody counts at any more:
//     mapping.Table does not give a slot to another mapping at once (see its
//     quarantine), so a loop that has an older table in its hands is done by then.
//   - What is still counted for an account that has ended is settled when its slot
//     gets the next one.
//   - A table that is an edit of the one before keeps its slots. Where another has
//     others, accounts stand still while the tables change; see Renumbering.
package accounting

import (
	"cmp"
	"iter"
	"slices"
	"sync"
)

// Count is a number of packets, superpackets counting as one, and of their bytes
// from the IP header on, as they came in.
type Count struct{ Packets, Bytes uint64 }

// Usage is what was translated for a workload, and what was refused.
type Usage struct {
	Sent, Received Count
	Violations     uint64 // packets from ports that are not its own
	Shed           uint64 // packets that it gave way with, both ways
	Denied         uint64 // packets that policies denied, both ways
	Daemon         uint64 // of those sent and received, what the daemon translated and not the kernel
}

// Plus is the sum.
func (u Usage) Plus(v Usage) Usage {
	u.Sent = Count{u.Sent.Packets + v.Sent.Packets, u.Sent.Bytes + v.Sent.Bytes}
	u.Received = Count{u.Received.Packets + v.Received.Packets, u.Received.Bytes + v.Received.Bytes}
	u.Violations += v.Violations
	u.Shed += v.Shed
	u.Denied += v.Denied
	u.Daemon += v.Daemon
	return u
}

// since is what came after v. A counter that cannot be read for a moment is taken
// to stand still.
func (u Usage) since(v Usage) Usage {
	minus := func(a, b uint64) uint64 { return a - min(a, b) }
	u.Sent = Count{minus(u.Sent.Packets, v.Sent.Packets), minus(u.Sent.Bytes, v.Sent.Bytes)}
	u.Received = Count{minus(u.Received.Packets, v.Received.Packets), minus(u.Received.Bytes, v.Received.Bytes)}
	u.Violations = minus(u.Violations, v.Violations)
	u.Shed = minus(u.Shed, v.Shed)
	u.Denied = minus(u.Denied, v.Denied)
	u.Daemon = minus(u.Daemon, v.Daemon)
	return u
}

// Counts gives what was ever counted at a slot of the table (mapping.Entry.Slot),
// whoever had it: it never falls. Any goroutine may call it.
type Counts func(slot uint32) Usage

// Place is where an assignment's mapping is in a table. Slot 0 is nowhere.
type Place struct {
	Serial   uint64
	Succeeds uint64 // the serial of the same workload's assignment before; 0: none
	Slot     uint32
}

// Accounting is the accounts of all assignments. Changes come one at a time;
// whoever reads may do so at any time, and keeps no change waiting for longer than
// a piece of the accounts takes.
type Accounting struct {
	counts Counts
	most   int // items

	mu     sync.RWMutex // guards what follows
	slots  map[uint64]uint32
	chunks []*chunk
	apart  map[uint64]account  // those without a slot
	over   map[uint32]struct{} // slots of accounts that have ended and are not settled
	items  int                 // accounts that are told one by one
	moves  uint64              // how often an account was taken from its place, or put into one
}

// chunkSlots is how many slots a reader looks at at once.
const chunkSlots = 1024

// chunk is the accounts of neighbouring slots.
type chunk struct {
	version uint64             // counts the changes
	serial  [chunkSlots]uint64 // 0: nobody's now
	state   [chunkSlots]state
	base    *[chunkSlots]Usage // at what count the account began; nil: all at 0
	brought map[uint32]Usage   // by slot: what the account had used before it came here
	others  Usage              // what accounts that are no items had used here when they left
}

type state uint8

const (
	used state = 1 << iota // somebody's, or the last one's late packets may still come
	item                   // told one by one
)

// account is one that is taken from its slot.
type account struct {
	Usage
	item bool
}

// New makes accounts for the assignments that there are, of which nothing was
// counted yet. The first most that come are told one by one for as long as they
// last, the lowest serials first; those for whom there is no place then are summed
// up with the others for as long as they last, so that no sum ever falls.
func New(most int, there iter.Seq[Place], counts Counts) *Accounting {
	places := slices.Collect(there)
	slices.SortFunc(places, func(a, b Place) int { return cmp.Compare(a.Serial, b.Serial) })
	a := &Accounting{counts: counts, most: most, slots: make(map[uint64]uint32, len(places)),
		apart: map[uint64]account{}, over: map[uint32]struct{}{}}
	for _, p := range places {
		a.attach(p.Serial, p.Slot, account{item: a.admit()}, Usage{})
	}
	return a
}

// Change is what an edit of the table does to an assignment.
type Change struct {
	// Old ends and New begins; either may be 0 for none. Where both are given,
	// they are of the same workload, and New begins with what Old has used.
	Old, New uint64
	Slot     uint32 // of New's mapping in the edited table
}

// Change follows an edit of the table. Call it when the edited table is made and
// not yet in force, and cannot be refused any more: inside of Translator.Edit.
func (a *Accounting) Change(c Change) {
	var now Usage
	if c.New != 0 {
		now = a.counts(c.Slot) // nobody counts there yet, unless it stays the same slot
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.change(c, now)
}

func (a *Accounting) change(c Change, now Usage) {
	if _, known := a.slots[c.Old]; !known {
		c.Old = c.New // it may be there already
	}
	slot, known := a.slots[c.Old]
	switch {
	case c.New == 0:
		a.end(c.Old)
	case known && slot == c.Slot && slot != 0:
		a.rename(c.Old, c.New, slot)
	case known:
		a.attach(c.New, c.Slot, a.detach(c.Old), now)
	default:
		a.attach(c.New, c.Slot, account{item: a.admit()}, now)
	}
}

// admit says whether there is a place among those that are told one by one, and
// takes it.
func (a *Accounting) admit() bool {
	if a.items == a.most {
		return false
	}
	a.items++
	return true
}

// at is the chunk of a slot, for changing it, and where it is there.
func (a *Accounting) at(slot uint32) (*chunk, uint32) {
	for n := int(slot / chunkSlots); n >= len(a.chunks); {
		a.chunks = append(a.chunks, new(chunk))
	}
	c := a.chunks[slot/chunkSlots]
	c.version++
	return c, slot % chunkSlots
}

// rename gives the account at a slot to the assignment that succeeds its own.
func (a *Accounting) rename(old, new uint64, slot uint32) {
	c, i := a.at(slot)
	c.serial[i] = new
	delete(a.slots, old)
	a.slots[new] = slot
}

// end ends an account. Late packets still count for the others, if it was one of
// them, until its slot is settled.
func (a *Accounting) end(serial uint64) {
	slot, known := a.slots[serial]
	if !known {
		return
	}
	delete(a.slots, serial)
	if slot == 0 {
		if a.apart[serial].item {
			a.items--
		}
		delete(a.apart, serial)
		return
	}
	c, i := a.at(slot)
	c.serial[i] = 0
	if c.state[i]&item != 0 {
		a.items--
		c.state[i] = 0
	} else {
		a.over[slot] = struct{}{}
	}
}

// attach puts an account at a slot, which has counted now so far.
func (a *Accounting) attach(serial uint64, slot uint32, who account, now Usage) {
	a.slots[serial] = slot
	if slot == 0 {
		a.apart[serial] = who
		return
	}
	c, i := a.at(slot)
	if before := c.serial[i]; before != 0 { // whose mapping is gone without a word
		a.end(before)
	}
	a.settle(slot, now)
	c.serial[i], c.state[i] = serial, used
	if who.item {
		c.state[i] |= item
	}
	if now != (Usage{}) && c.base == nil {
		c.base = new([chunkSlots]Usage)
	}
	if c.base != nil {
		c.base[i] = now
	}
	if who.Usage != (Usage{}) {
		if c.brought == nil {
			c.brought = map[uint32]Usage{}
		}
		c.brought[i] = who.Usage
	}
}

// detach takes an account from its slot, with what it has used so far.
func (a *Accounting) detach(serial uint64) account {
	slot := a.slots[serial]
	delete(a.slots, serial)
	a.moves++
	if slot == 0 {
		who := a.apart[serial]
		delete(a.apart, serial)
		return who
	}
	c, i := a.at(slot)
	now := a.counts(slot)
	who := account{c.brought[i].Plus(c.here(i, now)), c.state[i]&item != 0}
	a.settle(slot, now)
	return who
}

// here is what the account of a slot has used at it, which has counted now.
func (c *chunk) here(i uint32, now Usage) Usage {
	if c.base == nil {
		return now
	}
	return now.since(c.base[i])
}

// settle makes a slot nobody's.
func (a *Accounting) settle(slot uint32, now Usage) {
	c, i := a.at(slot)
	if c.state[i] == used { // and no item
		c.others = c.others.Plus(c.here(i, now))
	}
	c.serial[i], c.state[i] = 0, 0
	delete(c.brought, i)
	delete(a.over, slot)
}
