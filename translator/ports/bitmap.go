package ports

import "math/bits"

// Bitmap has a bit for each port, for who looks for room among many. The zero
// Bitmap is empty.
type Bitmap [Count / 64]uint64

// words calls f with each word that the range touches and the bits of it.
func words(r Range, f func(i int, mask uint64)) {
	first, last := int(r.First), int(r.Last)
	for i := first / 64; i <= last/64; i++ {
		mask := ^uint64(0)
		if i == first/64 {
			mask &= ^uint64(0) << (first % 64)
		}
		if i == last/64 {
			mask &= ^uint64(0) >> (63 - last%64)
		}
		f(i, mask)
	}
}

// Add adds the ports of r.
func (b *Bitmap) Add(r Range) {
	words(r, func(i int, mask uint64) { b[i] |= mask })
}

// Remove takes the ports of r away.
func (b *Bitmap) Remove(r Range) {
	words(r, func(i int, mask uint64) { b[i] &^= mask })
}

// AddSet adds the ports of s.
func (b *Bitmap) AddSet(s Set) {
	for _, r := range s.runs {
		b.Add(r)
	}
}

// RemoveSet takes the ports of s away.
func (b *Bitmap) RemoveSet(s Set) {
	for _, r := range s.runs {
		b.Remove(r)
	}
}

// AddBitmap adds the ports of o.
func (b *Bitmap) AddBitmap(o *Bitmap) {
	for i, w := range o {
		b[i] |= w
	}
}

// Contains reports whether port is in b.
func (b *Bitmap) Contains(port uint16) bool { return b[port/64]>>(port%64)&1 != 0 }

// OverlapsRange reports whether a port of r is in b.
func (b *Bitmap) OverlapsRange(r Range) bool {
	found := false
	words(r, func(i int, mask uint64) { found = found || b[i]&mask != 0 })
	return found
}

// Overlaps reports whether a port of s is in b.
func (b *Bitmap) Overlaps(s Set) bool {
	for _, r := range s.runs {
		if b.OverlapsRange(r) {
			return true
		}
	}
	return false
}

// Size is the number of ports.
func (b *Bitmap) Size() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// FreeBlock is the lowest run of size ports, aligned to size, that has no port
// of b or closed. size is a power of two.
func (b *Bitmap) FreeBlock(closed *Bitmap, size int) (Range, bool) {
	aligned, step := multiplesOf(size)
	for i := 0; i < len(b); i += step {
		if free := b.free(closed, size, i) & aligned; free != 0 {
			first := i*64 + bits.TrailingZeros64(free)
			return Range{uint16(first), uint16(first + size - 1)}, true
		}
	}
	return Range{}, false
}

// FreeBlocks is the number of runs of size ports, aligned to size, that have no
// port of b or closed. size is a power of two.
func (b *Bitmap) FreeBlocks(closed *Bitmap, size int) (n int) {
	aligned, step := multiplesOf(size)
	for i := 0; i < len(b); i += step {
		n += bits.OnesCount64(b.free(closed, size, i) & aligned)
	}
	return n
}

// multiplesOf has a bit for each port of a word that is a multiple of size, and
// how many words further there are such ports again.
func multiplesOf(size int) (aligned uint64, step int) {
	aligned = 1
	for n := size; n < 64; n *= 2 {
		aligned |= aligned << n
	}
	return aligned, max(1, size/64)
}

// free has a bit for each port of word i where size ports begin that are free:
// whole words, or ports of this word.
func (b *Bitmap) free(closed *Bitmap, size, i int) uint64 {
	for j := i; j < i+size/64; j++ {
		if b[j]|closed[j] != 0 {
			return 0
		}
	}
	free := ^(b[i] | closed[i])
	for n := 1; n < min(size, 64); n *= 2 {
		free &= free >> n // now runs of 2n begin at each bit that is set
	}
	return free
}
