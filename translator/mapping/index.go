package mapping

import "math/bits"

// index finds the slot of an entry by the hash of its key. It is an extendible
// hash table: the top bits of the hash choose a bucket through the directory,
// and the bucket is an open-addressed table of its own. A full bucket splits in
// two, so that growing, too, costs no more than a bucket and the directory.
type index struct {
	dir   directory[bucket] // 1 << depth leaves; neighbours may be the same bucket
	shift uint8             // 64 − depth
	count int
}

const (
	bucketLen  = 512
	bucketFull = bucketLen * 3 / 4
)

// bucket holds in each word the slot of an entry in the low 24 bits and eight
// bits of its hash above, so that hardly any entry is read in vain. Zero is
// empty; slot 0 belongs to nobody.
type bucket struct {
	words [bucketLen]uint32
	used  uint16
	depth uint8 // how many top bits of the hash all keys in it share
	epoch uint64
}

// The parts of a hash: directory from the top, tag and position from the bottom.
func tag(h uint64) uint32           { return uint32(h) &^ slotMask }
func position(h uint64) uint32      { return uint32(h) & (bucketLen - 1) }
func (x *index) of(h uint64) uint32 { return uint32(h >> (x.shift & 127)) }

func newIndex(epoch uint64) index {
	x := index{shift: 64}
	x.dir.set(0, &bucket{epoch: epoch}, epoch)
	return x
}

// edit is the bucket of h for writing.
func (x *index) edit(h, epoch uint64) *bucket {
	b := x.dir.at(x.of(h))
	if b.epoch != epoch {
		c := *b
		c.epoch = epoch
		b = &c
		x.set(h, b, epoch)
	}
	return b
}

// set puts b into every place of the directory whose top bits are those of h.
func (x *index) set(h uint64, b *bucket, epoch uint64) {
	n := uint32(1) << (64 - x.shift - b.depth)
	first := x.of(h) &^ (n - 1)
	for i := range n {
		x.dir.set(first+i, b, epoch)
	}
}

// expect makes room for n entries, so that adding them splits no bucket. Each
// split looks at entries all over the memory.
func (x *index) expect(n int, epoch uint64, hash func(slot uint32) uint64) {
	depth := uint8(bits.Len(uint(n / (bucketFull * 3 / 4))))
	if depth <= 64-x.shift {
		return
	}
	wide := index{shift: 64 - depth}
	for i := range uint32(1) << depth {
		wide.dir.set(i, &bucket{depth: depth, epoch: epoch}, epoch)
	}
	var last *bucket
	for i := range x.dir.count {
		if b := x.dir.at(i); b != last {
			last = b
			for _, w := range b.words {
				if w != 0 {
					wide.insert(hash(w&slotMask), w&slotMask, epoch, hash)
				}
			}
		}
	}
	*x = wide
}

// insert adds slot under h. hash gives the hash of a slot that is there.
func (x *index) insert(h uint64, slot uint32, epoch uint64, hash func(slot uint32) uint64) {
	b := x.edit(h, epoch)
	for b.used >= bucketFull {
		x.split(h, b, epoch, hash)
		b = x.edit(h, epoch)
	}
	b.insert(h, slot)
	x.count++
}

func (b *bucket) insert(h uint64, slot uint32) {
	i := position(h)
	for b.words[i] != 0 {
		i = (i + 1) & (bucketLen - 1)
	}
	b.words[i] = tag(h) | slot
	b.used++
}

// split distributes b, the bucket of h, over two by one more bit of the hash.
func (x *index) split(h uint64, b *bucket, epoch uint64, hash func(slot uint32) uint64) {
	if 64-x.shift == b.depth {
		var dir directory[bucket]
		for i := range 2 * x.dir.count {
			dir.set(i, x.dir.at(i/2), epoch)
		}
		x.dir = dir
		x.shift--
	}
	bit := uint64(1) << (63 - b.depth)
	halves := [2]*bucket{{depth: b.depth + 1, epoch: epoch}, {depth: b.depth + 1, epoch: epoch}}
	for _, w := range b.words {
		if w == 0 {
			continue
		}
		k := hash(w & slotMask)
		half := halves[0]
		if k&bit != 0 {
			half = halves[1]
		}
		half.insert(k, w&slotMask)
	}
	x.set(h&^bit, halves[0], epoch)
	x.set(h|bit, halves[1], epoch)
}

// remove takes slot, which is there, from under h, and closes the gap so that
// no search ends too early.
func (x *index) remove(h uint64, slot uint32, epoch uint64, hash func(slot uint32) uint64) {
	b := x.edit(h, epoch)
	i := position(h)
	for b.words[i]&slotMask != slot {
		i = (i + 1) & (bucketLen - 1)
	}
	for j := (i + 1) & (bucketLen - 1); b.words[j] != 0; j = (j + 1) & (bucketLen - 1) {
		home := position(hash(b.words[j] & slotMask))
		if (j-home)&(bucketLen-1) >= (j-i)&(bucketLen-1) { // the gap lies on its way
			b.words[i] = b.words[j]
			i = j
		}
	}
	b.words[i] = 0
	b.used--
	x.count--
}
