package mapping

import (
	"math/bits"

	"github.com/natless/natless/translator/ports"
)

// alignedBlock is the greatest power-of-two block inside r that starts at a
// multiple of its size: base | (x & mask) is in r whatever x.
func alignedBlock(r ports.Range) (base, mask uint16) {
	size := 1 << (bits.Len(uint(r.Size())) - 1)
	for ; ; size >>= 1 {
		start := (int(r.First) + size - 1) &^ (size - 1)
		if start+size-1 <= int(r.Last) {
			return uint16(start), uint16(size - 1)
		}
	}
}

// cube widens the aligned block of the longest run by every bit that may take
// both values with all of base | (x & mask) still in s. It gives a MAP-T node
// with offset bits half of its ports instead of one short run.
func cube(s ports.Set) (base, mask uint16) {
	base, mask = alignedBlock(s.Longest())
	for bit := mask + 1; bit != 0; bit <<= 1 {
		if containsCube(s, (base^bit)&^mask, mask) {
			base &^= bit
			mask |= bit
		}
	}
	return base, mask
}

// containsCube says whether base | x is in s for every x within mask.
func containsCube(s ports.Set, base, mask uint16) bool {
	block := uint16(1)<<bits.TrailingZeros16(^mask) - 1 // the low bits that run on
	high := mask &^ block
	for x := uint16(0); ; x = (x - high) & high { // all subsets of high, in order
		if !s.ContainsRange(ports.Range{First: base | x, Last: base | x | block}) {
			return false
		}
		if x == high {
			return true
		}
	}
}
