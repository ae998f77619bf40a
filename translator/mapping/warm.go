package mapping

// A lookup in a large table waits for memory, and packets translated one after the
// other wait one after the other. Warm asks for what all packets of a batch will need
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
		l.warm6(b)
	}
	if l := largest(t.levels4); l != nil && b.n4 > 1 {
		var lines [BatchLen]*line
		l.warm4(b, &lines)
		if t.shares.count > 0 {
			t.warmShares(b, &lines)
		}
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

// warm6 reads the lines that lookups read first, and then the others of those who
// are not there. What finds a place is kept apart from what waits for it: so as many
// loads as the processor can have are under way, and no branch hangs on one of them.
func (l *level) warm6(b *Batch) {
	var lines [BatchLen]*line
	n := b.n6
	for i := range b.six[:n] {
		a := &b.six[i]
		a.Hi, a.Lo = a.Hi&l.mask6.Hi, a.Lo&l.mask6.Lo
		lines[i], b.hash[i] = l.firstLine(hash6(*a))
	}
	b.read(lines[:n])
	for i, a := range b.six[:n] {
		p := lines[i]
		lines[i] = l.lineOf(b.hash[i], isZero(p[0].v6.Lo^a.Lo)|isZero(p[1].v6.Lo^a.Lo))
	}
	b.read(lines[:n])
}

// warm4 is warm6 for IPv4. It leaves in lines the one in which each address is, if it
// is anywhere.
func (l *level) warm4(b *Batch, lines *[BatchLen]*line) {
	n := b.n4
	for i := range b.four[:n] {
		b.four[i] &= l.mask4
		lines[i], b.hash[i] = l.firstLine(hash4(b.four[i]))
	}
	b.read(lines[:n])
	for i, a := range b.four[:n] {
		p := lines[i]
		lines[i] = l.lineOf(b.hash[i], isZero(uint64(p[0].v4^a))|isZero(uint64(p[1].v4^a)))
	}
	b.read(lines[:n])
}

func (x *index) firstLine(h uint64) (*line, uint64) {
	b := x.dir.at(x.of(h))
	return &b.lines[b.first(h)], h
}

// lineOf is the first line of a hash, or with 0 the second.
func (x *index) lineOf(h, isFirst uint64) *line {
	b := x.dir.at(x.of(h))
	first, second := b.first(h), b.second(h)
	return &b.lines[second^(first^second)&-uint32(isFirst)]
}

// read reads of each line.
func (b *Batch) read(lines []*line) {
	sum := uint64(0)
	for _, p := range lines {
		sum += uint64(p[0].word)
	}
	b.sum += sum
}

// warmShares goes on to who owns the ports, where addresses are shared: to the share,
// to the run where owners share a block, and to the owner, each for all at once.
func (t *Table) warmShares(b *Batch, lines *[BatchLen]*line) {
	var shares [BatchLen]*share
	n, sum := 0, uint64(0)
	for i, p := range lines[:b.n4] {
		e := &p[0]
		if p[1].v4 == b.four[i] {
			e = &p[1]
		}
		if e.word&head != 0 && e.v4 == b.four[i] {
			shares[n], b.port[n] = t.share(e), b.port[i]
			n++
		}
	}
	for i, s := range shares[:n] {
		sum += uint64(s.blocks[b.port[i]>>8]) + s.epoch
	}
	for i, s := range shares[:n] {
		if at := int(s.blocks[b.port[i]>>8]) - mixed; at >= 0 && at < len(s.runs) {
			sum += uint64(s.runs[at].owner)
		}
	}
	for i, s := range shares[:n] {
		if owner := s.find(b.port[i]); owner != nil {
			sum += uint64(owner.word)
		}
	}
	b.sum += sum
}
