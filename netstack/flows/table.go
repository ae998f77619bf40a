package flows

import (
	"math/bits"
	"math/rand/v2"
)

// Table is what one queue has seen since its table was taken away: open addressing
// over entries of a fixed number. It allocates nothing after it was made. One
// goroutine at a time uses it; see Queue.
type Table struct {
	entries []entry
	index   []uint64 // the upper half of a key's hash, and 1 + where its entry is
	mask    uint64
	seed    [2]uint64
	sample  uint64 // of so many packets one is counted; 0 or 1: of each one
	draw    uint64 // the state of a xorshift generator, never 0
	lost    [lostSlots]lostBy
	others  Lost     // of slots that found no room in lost
	refused *refused // what policies denied
}

// refused is the table of what policies denied. It is small and apart, since whoever is
// denied may send as many different packets as he likes: these take no room from what is
// translated. Nor may one workload's take that of all others.
type refused struct {
	table  *Table
	shares [lostSlots]uint16 // how many flows, by slot: some share one
}

// refusedRoom is how many flows that were denied a table has room for, and refusedShare
// how many of them one workload has.
const (
	refusedRoom  = 4096
	refusedShare = refusedRoom / 4
)

type entry struct {
	Key
	Sum
}

// owned is an open flow.
type owned struct {
	entry
	owner any
}

// lostSlots is of how many workloads a table knows what it lost.
const lostSlots = 256

type lostBy struct {
	slot uint32
	Lost
}

// NewTable makes a table with room for some flows, which counts one of so many packets
// that AddPacket is given.
func NewTable(room, sample int) *Table {
	t := newTable(room, sample)
	t.refused = &refused{table: newTable(min(room, refusedRoom), 1)}
	return t
}

func newTable(room, sample int) *Table {
	size := 1 << bits.Len(uint(max(room, 1)*2-1))
	return &Table{entries: make([]entry, 0, room), index: make([]uint64, size), mask: uint64(size - 1),
		seed:   [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1}, // who chooses ports does not choose the chain
		sample: uint64(sample), draw: rand.Uint64() | 1}
}

// drawn says whether a packet is one of the sample: each by itself and by chance (RFC
// 5475 5.2.2.1), since who sends could hit the gaps of a regular one.
func (t *Table) drawn() bool {
	t.draw ^= t.draw << 13
	t.draw ^= t.draw >> 7
	t.draw ^= t.draw << 17
	hi, _ := bits.Mul64(t.draw, t.sample)
	return hi == 0
}

// hash of a key. Who sends packets does not know the seed.
func (t *Table) hash(k *Key) uint64 {
	a := (uint64(k.Local)<<32 | uint64(k.Remote)) ^ t.seed[0]
	b := (uint64(k.Slot)<<32 | uint64(k.LocalPort)<<16 | uint64(k.RemotePort)) ^ t.seed[1]
	hi, lo := bits.Mul64(a^uint64(k.Proto)<<56, b^0x9e3779b97f4a7c15)
	h := hi ^ lo
	hi, lo = bits.Mul64(h^t.seed[1], 0xe7037ed1a0b428db)
	return hi ^ lo
}

// Add counts packets of a flow. What finds no room is counted as lost.
func (t *Table) Add(k Key, d Direction, packets, bytes uint64, flags uint8, now int64) {
	if t.add(k, d, packets, bytes, flags, now) == nil {
		t.lose(k.Slot, Lost{Packets: packets, Bytes: bytes})
	}
}

// add is Add; nil: there is no room.
func (t *Table) add(k Key, d Direction, packets, bytes uint64, flags uint8, now int64) *Sum {
	h := t.hash(&k)
	i := h & t.mask
	for ; t.index[i] != 0; i = (i + 1) & t.mask {
		if at := t.index[i]; at>>32 == h>>32 {
			if e := &t.entries[uint32(at)-1]; e.Key == k {
				e.Last = now
				e.Packets[d] += packets
				e.Bytes[d] += bytes
				e.Flags[d] |= uint32(flags)
				return &e.Sum
			}
		}
	}
	n := len(t.entries)
	if n == cap(t.entries) {
		return nil
	}
	t.entries = t.entries[:n+1]
	e := &t.entries[n]
	*e = entry{Key: k, Sum: Sum{First: now, Last: now, Began: d}}
	e.Packets[d], e.Bytes[d], e.Flags[d] = packets, bytes, uint32(flags)
	t.index[i] = h>>32<<32 | uint64(n+1)
	return &e.Sum
}

// Refuse counts packets of a flow that a rule denied, by its serial.
func (t *Table) Refuse(k Key, d Direction, packets, bytes uint64, flags uint8, rule uint32, now int64) {
	if t.sample > 1 && !t.drawn() {
		return
	}
	r := t.refused
	share, before := &r.shares[k.Slot%lostSlots], r.table.Len()
	s := (*Sum)(nil)
	if *share < refusedShare || r.table.has(&k) {
		s = r.table.add(k, d, packets, bytes, flags, now)
	}
	if s == nil {
		t.lose(k.Slot, Lost{Denied: packets})
		return
	}
	s.Rule = rule
	*share += uint16(r.table.Len() - before)
}

// has says that there is a flow.
func (t *Table) has(k *Key) bool {
	h := t.hash(k)
	for i := h & t.mask; t.index[i] != 0; i = (i + 1) & t.mask {
		if at := t.index[i]; at>>32 == h>>32 && t.entries[uint32(at)-1].Key == *k {
			return true
		}
	}
	return false
}

func (t *Table) lose(slot uint32, n Lost) {
	for i := range uint32(4) { // a place of its own, or one of the next
		l := &t.lost[(slot+i)%lostSlots]
		if !l.any() || l.slot == slot {
			l.slot = slot
			l.add(n)
			return
		}
	}
	t.others.add(n)
}

// Len is how many flows there are, Room for how many more there is room.
func (t *Table) Len() int { return len(t.entries) }

// Room see Len.
func (t *Table) Room() int { return cap(t.entries) - len(t.entries) }

// Drain hands over what there is, and empties the table. Slot 0 of lost is of
// whoever it was.
func (t *Table) Drain(flow func(*Key, *Sum), lost func(slot uint32, n Lost)) {
	for i := range t.entries {
		flow(&t.entries[i].Key, &t.entries[i].Sum)
	}
	for i := range t.lost {
		if l := &t.lost[i]; l.any() {
			lost(l.slot, l.Lost)
		}
	}
	if t.others.any() {
		lost(0, t.others)
	}
	if r := t.refused; r != nil && r.table.Len() > 0 {
		r.table.Drain(flow, lost)
		r.shares = [lostSlots]uint16{}
	}
	t.entries = t.entries[:0]
	clear(t.index)
	t.lost, t.others = [lostSlots]lostBy{}, Lost{}
}
