package mapping

// A lookup in a large table waits for memory twice, for a word of a bucket and
// then for the entry that it names, and packets translated one after the other
// wait one after the other. Warm asks for what all packets of a batch will need
// before the first is translated: its loads do not depend on each other, so the
// processor has many of them under way at a time.

// warmFrom is how many entries it takes before waiting costs more than asking
// twice: fewer, and all of them stay in the second-level cache.
const warmFrom = 1 << 14

// BatchLen is how many addresses of a family a Batch has room for.
const BatchLen = 64

// Batch is what lookups are about to be asked for. It holds no pointer, so that
// it keeps no table alive. It belongs to one goroutine.
type Batch struct {
	six    [BatchLen]Addr6
	four   [BatchLen]uint32
	port   [BatchLen]uint16 // of the address in four
	n6, n4 int

	hash [BatchLen]uint64
	slot [BatchLen]uint32
	sum  uint64 // of what was read, so that it is read
}

// Large says that Warm is worth it.
func (t *Table) Large() bool { return t.slots > warmFrom }

// Reset empties the batch.
func (b *Batch) Reset() { b.n6, b.n4 = 0, 0 }

// Add6 adds an address that Lookup6 will be asked for, if there is room.
func (b *Batch) Add6(a Addr6) {
	if b.n6 < BatchLen {
		b.six[b.n6] = a
		b.n6++
	}
}

// Add4 adds an address that Lookup4, and a port that Port will be asked for.
func (b *Batch) Add4(a uint32, port uint16) {
	if b.n4 < BatchLen {
		b.four[b.n4], b.port[b.n4] = a, port
		b.n4++
	}
}

// Warm brings what the lookups of the batch read into the cache. It changes
// nothing, and what it leaves out is found all the same.
func (t *Table) Warm(b *Batch) {
	if l := largest(t.levels6); l != nil && b.n6 > 1 {
		t.warm6(l, b)
	}
	if l := largest(t.levels4); l != nil && b.n4 > 1 {
		t.warm4(l, b)
	}
}

// largest is the level that most addresses are found in.
func largest(levels []level) (most *level) {
	for i := range levels {
		if most == nil || levels[i].count > most.count {
			most = &levels[i]
		}
	}
	return most
}

func (t *Table) warm6(l *level, b *Batch) {
	n := b.n6
	for i, a := range b.six[:n] {
		b.hash[i] = hash6(Addr6{a.Hi & l.mask6.Hi, a.Lo & l.mask6.Lo})
	}
	b.touch(t, l, n)
}

func (t *Table) warm4(l *level, b *Batch) {
	n := b.n4
	for i, a := range b.four[:n] {
		b.hash[i] = hash4(a & l.mask4)
	}
	b.touch(t, l, n)
	t.warmShares(b)
}

// touch reads what the lookups of the first n hashes will read. What finds a
// place is kept apart from what waits for it: so as many loads as the processor
// can have are under way, and no branch hangs on one of them.
func (b *Batch) touch(t *Table, l *level, n int) {
	sum := uint64(0)
	var words [BatchLen]*uint32
	for i, h := range b.hash[:n] {
		words[i] = &l.dir.at(l.of(h)).words[position(h)]
	}
	for _, w := range words[:n] {
		sum += uint64(*w)
	}
	var entries [BatchLen]*Entry
	for i, h := range b.hash[:n] {
		slot := l.candidate(h)
		b.slot[i] = slot
		entries[i] = t.entry(slot)
	}
	for _, e := range entries[:n] {
		sum += e.ends()
	}
	b.sum += sum
}

// warmShares goes on to who owns the ports, where addresses are shared.
func (t *Table) warmShares(b *Batch) {
	some, sum := false, uint64(0)
	for i, slot := range b.slot[:b.n4] {
		s := t.entry(slot).share
		if slot == 0 || s == nil {
			b.slot[i] = 0
			continue
		}
		some = true
		sum += uint64(s.blocks[b.port[i]>>8])
	}
	if some {
		for i, slot := range b.slot[:b.n4] {
			if slot == 0 {
				continue
			}
			// Another may be here than the lookup will find: only one with
			// a share of its own was let through.
			if owner := t.entry(slot).share.find(b.port[i]); owner != 0 {
				sum += t.entry(owner).ends()
			}
		}
	}
	b.sum += sum
}

// candidate is the first slot under h that the lookup will look at, or 0.
func (x *index) candidate(h uint64) uint32 {
	words := &x.dir.at(x.of(h)).words
	for i := position(h); words[i&(bucketLen-1)] != 0; i++ {
		if w := words[i&(bucketLen-1)] ^ tag(h); w <= slotMask {
			return w
		}
	}
	return 0
}

// ends reads both ends of what lookups read of an entry, which may lie in two
// cache lines.
func (e *Entry) ends() uint64 { return e.v6.Hi + uint64(e.len4) }
