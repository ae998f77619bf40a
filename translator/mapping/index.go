package mapping

import (
	"math/bits"
	"slices"
)

// index finds an entry by the hash of its key. It is an extendible hash table: the
// top bits of the hash choose a bucket through the directory, and the bucket is a
// table of its own. A full bucket splits in two, so that growing, too, costs no more
// than a bucket and the directory.
//
// The entries themselves stand in the buckets, those of a mapping in the index of
// either family: of a million mappings none is in a cache, and who looks one up waits
// for memory once, not for a word of an index and then for what it leads to.
type index struct {
	dir   directory[bucket] // 1 << depth leaves; neighbours may be the same bucket
	shift uint8             // 64 − depth
	count int
}

// bucket is a cuckoo hash table (Pagh and Rodler, 2001) of lines of two entries: each
// stands in one of two lines, in the first if it can. What has no place makes another
// go to its other line. It is as long as its entries need.
type bucket struct {
	lines []line
	epoch uint64
	used  uint16
	hint  uint16 // how many lines are to be expected
	depth uint8  // how many top bits of the hash all keys in it share
}

// line is one of the processor's caches: an object of a whole number of lines without
// pointers begins where a line begins.
type line [lineLen]Entry

const (
	lineLen    = 2
	bucketFull = 256 // entries
)

// lengths are how many lines a bucket has: what Go's allocator has sizes for.
var lengths = [...]int{1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 42, 48, 54, 64, 76, 84, 96, 106, 128, 148, 170}

// length is how many lines take n entries: those are up to seven eighths full.
func length(n int) int {
	for _, l := range lengths {
		if n*8 <= l*lineLen*7 {
			return l
		}
	}
	return n
}

// The parts of a hash: directory from the top, lines from the 24 bits below the first
// 16. The rest takes part in nothing.
func (x *index) of(h uint64) uint32      { return uint32(h >> (x.shift & 127)) }
func (b *bucket) first(h uint64) uint32  { return b.line(uint32(h>>16) &^ 255) }
func (b *bucket) second(h uint64) uint32 { return b.line(mix(uint32(h>>16) &^ 255)) }
func (b *bucket) line(x uint32) uint32   { return uint32(uint64(x) * uint64(len(b.lines)) >> 32) }

// mix makes of what chooses the first line what chooses the second (the end of
// MurmurHash3). Without it addresses that follow each other, whose hashes are multiples,
// would have both lines in common with many.
func mix(x uint32) uint32 {
	x = (x ^ x>>16) * 0x85ebca6b
	return (x ^ x>>13) * 0xc2b2ae35
}

func newIndex(epoch uint64) index {
	x := index{shift: 64}
	x.dir.set(0, bucket{lines: make([]line, 1), epoch: epoch}, epoch)
	return x
}

// find6 is the entry of key, whose hash is h, or nil. Which of the two entries of a line
// it is no branch says, which would be wrong every other time. Where the second has the
// lower half of the key and is not it, which hardly ever is, the first is looked at last.
func (b *bucket) find6(key Addr6, h uint64) *Entry {
	l := &b.lines[b.first(h)]
	if e := &l[isZero(l[1].v6.Lo^key.Lo)]; e.v6 == key && e.word != 0 {
		return e
	}
	return b.rest6(l, &b.lines[b.second(h)], key)
}

func (b *bucket) rest6(first, second *line, key Addr6) *Entry {
	if e := &second[isZero(second[1].v6.Lo^key.Lo)]; e.v6 == key && e.word != 0 {
		return e
	}
	for _, e := range [...]*Entry{&second[0], &first[0]} {
		if e.v6 == key && e.word != 0 {
			return e
		}
	}
	return nil
}

// find4 is find6 for IPv4.
func (b *bucket) find4(key uint32, h uint64) *Entry {
	l := &b.lines[b.first(h)]
	if e := &l[isZero(uint64(l[1].v4^key))]; e.v4 == key && e.word != 0 {
		return e
	}
	return b.rest4(l, &b.lines[b.second(h)], key)
}

func (b *bucket) rest4(first, second *line, key uint32) *Entry {
	if e := &second[isZero(uint64(second[1].v4^key))]; e.v4 == key && e.word != 0 {
		return e
	}
	for _, e := range [...]*Entry{&second[0], &first[0]} {
		if e.v4 == key && e.word != 0 {
			return e
		}
	}
	return nil
}

// isZero is 1 of 0, and else 0.
func isZero(x uint64) uint64 { return (x|-x)>>63 ^ 1 }

// bySlot is the entry of slot, whose hash is h, or nil.
func (b *bucket) bySlot(h uint64, slot uint32) *Entry {
	first, second := &b.lines[b.first(h)], &b.lines[b.second(h)]
	for _, e := range [...]*Entry{&first[0], &first[1], &second[0], &second[1]} {
		if e.word&(slotMask|live) == slot|live {
			return e
		}
	}
	return nil
}

// own is the bucket of h with lines that may be written.
func (x *index) own(h, epoch uint64) bucket {
	b := *x.dir.at(x.of(h))
	if b.epoch != epoch {
		b.lines = slices.Clone(b.lines)
		b.epoch = epoch
		x.set(h, b)
	}
	return b
}

// set puts b into every place of the directory whose top bits are those of h.
func (x *index) set(h uint64, b bucket) {
	n := uint32(1) << (64 - x.shift - b.depth)
	first := x.of(h) &^ (n - 1)
	for i := range n {
		x.dir.set(first+i, b, b.epoch)
	}
}

// family says what of an entry is its key.
type family bool

const (
	six  family = false
	four family = true
)

func (f family) hash(e *Entry) uint64 {
	if f == four {
		return hash4(e.v4)
	}
	return hash6(e.v6)
}

// expect makes room for n entries, so that adding them splits no bucket and copies few.
func (x *index) expect(n int, epoch uint64, f family) {
	depth := uint8(bits.Len(uint(n / (bucketFull * 3 / 4))))
	if depth <= 64-x.shift {
		return
	}
	wide := index{shift: 64 - depth}
	hint := uint16(length(n >> depth))
	for i := range uint32(1) << depth {
		wide.dir.set(i, bucket{lines: make([]line, 1), depth: depth, hint: hint, epoch: epoch}, epoch)
	}
	for b := range x.buckets {
		for _, l := range b.lines {
			for i := range l {
				if l[i].word != 0 {
					wide.insert(l[i], epoch, f)
				}
			}
		}
	}
	*x = wide
}

// buckets yields every bucket once.
func (x *index) buckets(yield func(*bucket) bool) {
	for i := uint32(0); i < x.dir.count; {
		b := x.dir.at(i)
		if !yield(b) {
			return
		}
		i += 1 << (64 - x.shift - b.depth)
	}
}

// insert adds an entry, whose key is not there.
func (x *index) insert(e Entry, epoch uint64, f family) {
	h := f.hash(&e)
	b := *x.dir.at(x.of(h))
	for b.used >= bucketFull {
		x.split(h, b, epoch, f)
		b = *x.dir.at(x.of(h))
	}
	if l := length(int(b.used) + 1); l > len(b.lines) {
		b = b.with(max(l, min(4*len(b.lines), int(b.hint))), epoch, f)
	} else {
		b = x.own(h, epoch)
	}
	b.insert(e, f)
	x.set(h, b)
	x.count++
}

// split distributes b, the bucket of h, over two by one more bit of the hash.
func (x *index) split(h uint64, b bucket, epoch uint64, f family) {
	if 64-x.shift == b.depth {
		var dir directory[bucket]
		for i := range 2 * x.dir.count {
			dir.set(i, *x.dir.at(i / 2), epoch)
		}
		x.dir = dir
		x.shift--
	}
	bit := uint64(1) << (63 - b.depth)
	halves := [2]bucket{{depth: b.depth + 1, epoch: epoch}, {depth: b.depth + 1, epoch: epoch}}
	for i := range halves {
		halves[i].lines = make([]line, length(int(b.used)/2))
	}
	for i := range b.lines {
		for _, e := range b.lines[i] {
			if e.word == 0 {
				continue
			}
			half := &halves[0]
			if f.hash(&e)&bit != 0 {
				half = &halves[1]
			}
			half.insert(e, f)
		}
	}
	x.set(h&^bit, halves[0])
	x.set(h|bit, halves[1])
}

// remove takes the entry that find finds away. It is there.
func (x *index) remove(h, epoch uint64, find func(*bucket) *Entry, f family) {
	b := x.own(h, epoch)
	*find(&b) = Entry{}
	b.used--
	if l := length(int(b.used)); l < len(b.lines)*2/3 {
		b = b.with(l, epoch, f)
	}
	x.set(h, b)
	x.count--
}

// with is b with as many lines, or more if it must be.
func (b *bucket) with(lines int, epoch uint64, f family) bucket {
	c := bucket{lines: make([]line, lines), epoch: epoch, depth: b.depth, hint: b.hint}
	for i := range b.lines {
		for _, e := range b.lines[i] {
			if e.word != 0 {
				c.insert(e, f)
			}
		}
	}
	return c
}

// insert adds e to a bucket that may be written.
func (b *bucket) insert(e Entry, f family) {
	for !b.put(&e, f) {
		*b = b.with(length(lineLen*len(b.lines)), b.epoch, f)
	}
	b.used++
}

// put finds a place for e, or reports that there is none, and then e is another. Who
// stands in his second line gives way to whose first it is.
func (b *bucket) put(e *Entry, f family) bool {
	h := f.hash(e)
	for first := b.first(h); ; first = b.first(h) {
		l := &b.lines[first]
		if l.put(e) {
			return true
		}
		i := b.guest(first, f)
		if i < 0 {
			break
		}
		*e, l[i] = l[i], *e
		h = f.hash(e)
	}
	if b.lines[b.second(h)].put(e) || b.makeRoom(b.first(h), e, f) || b.makeRoom(b.second(h), e, f) {
		return true
	}
	at := b.second(h)
	for turn := range 4*len(b.lines) + 16 {
		l := &b.lines[at]
		if l.put(e) {
			return true
		}
		i := turn >> 1 & 1 // no pattern comes back soon
		*e, l[i] = l[i], *e
		at = b.other(at, e, f)
	}
	return false
}

// makeRoom puts e into a line if one who stands there has room in his other.
func (b *bucket) makeRoom(at uint32, e *Entry, f family) bool {
	for i := range b.lines[at] {
		if old := &b.lines[at][i]; b.lines[b.other(at, old, f)].put(old) {
			*old = *e
			return true
		}
	}
	return false
}

// other is the line that e may stand in besides one.
func (b *bucket) other(at uint32, e *Entry, f family) uint32 {
	h := f.hash(e)
	if first := b.first(h); first != at {
		return first
	}
	return b.second(h)
}

// guest is who of a full line stands in his second there, or −1.
func (b *bucket) guest(at uint32, f family) int {
	for i := range b.lines[at] {
		if b.first(f.hash(&b.lines[at][i])) != at {
			return i
		}
	}
	return -1
}

// put writes e where the line has nothing.
func (l *line) put(e *Entry) bool {
	for i := range l {
		if l[i].word == 0 {
			l[i] = *e
			return true
		}
	}
	return false
}
