package mapping

// An edit may write what it made itself and must copy everything else first.
// So whatever a table consists of carries the epoch of the edit that made it;
// epochs are never used twice.

// directory is an array of leaves, cut into chunks so that an edit copies
// little: one chunk and the list of chunks, not the array.
type directory[L any] struct {
	chunks []*chunk[L]
	count  uint32 // of leaves
	epoch  uint64 // of chunks, the list
}

const (
	chunkBits = 6
	chunkLen  = 1 << chunkBits
)

type chunk[L any] struct {
	leaf  [chunkLen]L
	epoch uint64
}

func (d *directory[L]) at(i uint32) *L { return &d.chunks[i>>chunkBits].leaf[i&(chunkLen-1)] }

// set makes leaf the i-th, of those there are or behind them.
func (d *directory[L]) set(i uint32, leaf L, epoch uint64) {
	if d.epoch != epoch {
		d.chunks = append(make([]*chunk[L], 0, len(d.chunks)+1), d.chunks...)
		d.epoch = epoch
	}
	n := int(i >> chunkBits)
	if n == len(d.chunks) {
		d.chunks = append(d.chunks, &chunk[L]{epoch: epoch})
	}
	if d.chunks[n].epoch != epoch {
		c := *d.chunks[n]
		c.epoch = epoch
		d.chunks[n] = &c
	}
	d.chunks[n].leaf[i&(chunkLen-1)] = leaf
	d.count = max(d.count, i+1)
}

// store keeps things by numbers, which are used again.
type store[L any] struct {
	directory[*L]
	free *number
}

// number is a number that is free, and those that were before it.
type number struct {
	n    uint32
	next *number
}

func (s *store[L]) get(n uint32) *L { return *s.at(n) }

// put keeps l, and gives its number.
func (s *store[L]) put(l *L, epoch uint64) (n uint32) {
	if n = s.count; s.free != nil {
		n, s.free = s.free.n, s.free.next
	}
	s.set(n, l, epoch)
	return n
}

func (s *store[L]) drop(n uint32, epoch uint64) {
	s.set(n, nil, epoch)
	s.free = &number{n, s.free}
}

// page says of each slot where its entry is to be found: the first 40 bits of the hash
// of its IPv6 prefix, which is what a search needs, and the prefix's length. Of a free
// slot it has the next free one, and vacant for the length.
type page struct {
	high  [pageLen]uint32
	low   [pageLen]uint16 // eight bits of the hash, and the length
	epoch uint64
}

const (
	pageBits = 7
	pageLen  = 1 << pageBits

	vacant = 255
)

// entry is the entry of a slot as the index for IPv6 has it, or nil.
func (t *Table) entry(slot uint32) *Entry {
	p, i := *t.pages.at(slot >> pageBits), slot&(pageLen-1)
	l := levelOf(t.levels6, uint8(p.low[i]))
	if l == nil {
		return nil
	}
	h := uint64(p.high[i])<<32 | uint64(p.low[i]>>8)<<24
	return l.dir.at(l.of(h)).bySlot(h, slot)
}

// next is the free slot after a free one.
func (t *Table) next(slot uint32) uint32 {
	return (*t.pages.at(slot >> pageBits)).high[slot&(pageLen-1)]
}

// setPlace says where the entry of a slot is: under a hash, by a prefix length.
func (e *Edit) setPlace(slot uint32, h uint64, length uint8) {
	n := slot >> pageBits
	var p *page
	if n == e.t.pages.count {
		p = &page{epoch: e.epoch}
		e.t.pages.set(n, p, e.epoch)
	} else if p = *e.t.pages.at(n); p.epoch != e.epoch {
		c := *p
		c.epoch = e.epoch
		p = &c
		e.t.pages.set(n, p, e.epoch)
	}
	i := slot & (pageLen - 1)
	p.high[i], p.low[i] = uint32(h>>32), uint16(h>>24)<<8|uint16(length)
}
