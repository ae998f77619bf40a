// Package ports is sets of ports, and the only type for them: a Range, a Set of
// them that never changes, a Builder and a Bitmap for book-keeping that does.
// What a port is of (an address, a workload, a rule) may not enter here, and no
// package but the standard library's: the CNI plugin must start fast.
//
// An empty Set has no port. That a mapping without ports has its address whole
// is a rule of those who have such a field, and is said there.
package ports

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strconv"
)

// Count is how many ports there are, 0 among them.
const Count = 1 << 16

// Range is a run of ports, both ends included. First is not above Last.
type Range struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Single is the range of one port.
func Single(port uint16) Range { return Range{port, port} }

// Size is the number of ports in r.
func (r Range) Size() int { return int(r.Last) - int(r.First) + 1 }

// Contains reports whether port lies in r. One comparison: the difference wraps.
func (r Range) Contains(port uint16) bool { return port-r.First <= r.Last-r.First }

// Overlaps reports whether r and o have a port in common.
func (r Range) Overlaps(o Range) bool { return r.First <= o.Last && o.First <= r.Last }

// String is "1024-2047", or "8080" for a single port.
func (r Range) String() string { return string(r.append(nil)) }

func (r Range) append(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(r.First), 10)
	if r.First != r.Last {
		b = strconv.AppendUint(append(b, '-'), uint64(r.Last), 10)
	}
	return b
}

// Set is a set of ports. It is a value: no method changes it, and copies may
// share it freely. The zero Set is empty.
//
// It is kept as sorted runs that neither overlap nor touch, so that equal sets
// are the same runs.
type Set struct{ runs []Range }

// All has every port.
func All() Set { return Of(Range{0, Count - 1}) }

// Of is the set of the ports in ranges, which may stand in any order and
// overlap. One that runs backwards has no port.
func Of(ranges ...Range) Set {
	b := Builder{Set{make([]Range, 0, len(ranges))}}
	for _, r := range ranges {
		b.Add(r)
	}
	if b.IsZero() {
		return Set{}
	}
	return b.set
}

// Disjoint is the set of ranges as somebody wrote them down: in any order, but
// what overlaps or runs backwards is a mistake. It keeps ranges.
func Disjoint(ranges []Range) (Set, error) {
	slices.SortFunc(ranges, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	joined := ranges[:0]
	for _, r := range ranges {
		n := len(joined)
		switch {
		case r.First > r.Last:
			return Set{}, fmt.Errorf("%v: the range runs backwards", r)
		case n > 0 && r.First <= joined[n-1].Last:
			return Set{}, fmt.Errorf("%v and %v: ranges must not overlap", joined[n-1], r)
		case n > 0 && r.First == joined[n-1].Last+1:
			joined[n-1].Last = r.Last
		default:
			joined = append(joined, r)
		}
	}
	if len(joined) == 0 {
		return Set{}, nil
	}
	return Set{joined}, nil
}

// IsZero reports whether s has no port.
func (s Set) IsZero() bool { return len(s.runs) == 0 }

// Len is the number of runs.
func (s Set) Len() int { return len(s.runs) }

// Run is the run with index i, from 0 to Len()-1, in ascending order.
func (s Set) Run(i int) Range { return s.runs[i] }

// Runs are the runs in ascending order.
func (s Set) Runs() iter.Seq[Range] { return slices.Values(s.runs) }

// Ports are the ports in ascending order.
func (s Set) Ports() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for _, r := range s.runs {
			for port := int(r.First); port <= int(r.Last); port++ {
				if !yield(uint16(port)) {
					return
				}
			}
		}
	}
}

// Size is the number of ports.
func (s Set) Size() int {
	n := 0
	for _, r := range s.runs {
		n += r.Size()
	}
	return n
}

// Min is the lowest port, 0 if there is none.
func (s Set) Min() uint16 {
	if s.IsZero() {
		return 0
	}
	return s.runs[0].First
}

// Longest is the longest run, the first of several; the zero Range, which is
// port 0, if there is none.
func (s Set) Longest() (longest Range) {
	for i, r := range s.runs {
		if i == 0 || r.Size() > longest.Size() {
			longest = r
		}
	}
	return longest
}

// Equal reports whether s and o have the same ports.
func (s Set) Equal(o Set) bool { return slices.Equal(s.runs, o.runs) }

// search is the index of the first run that does not end before port.
func (s Set) search(port uint16) int {
	lo, hi := 0, len(s.runs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s.runs[mid].Last < port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Contains reports whether port is in s.
func (s Set) Contains(port uint16) bool {
	i := s.search(port)
	return i < len(s.runs) && s.runs[i].First <= port
}

// ContainsRange reports whether all ports of r are in s.
func (s Set) ContainsRange(r Range) bool {
	i := s.search(r.First)
	return i < len(s.runs) && s.runs[i].First <= r.First && r.Last <= s.runs[i].Last
}

// OverlapsRange reports whether a port of r is in s.
func (s Set) OverlapsRange(r Range) bool {
	i := s.search(r.First)
	return i < len(s.runs) && s.runs[i].First <= r.Last
}

// Overlaps reports whether s and o have a port in common.
func (s Set) Overlaps(o Set) bool {
	if len(s.runs) < len(o.runs) {
		s, o = o, s
	}
	return slices.ContainsFunc(o.runs, s.OverlapsRange)
}

// Bitmap is the same ports as a bitmap.
func (s Set) Bitmap() (b Bitmap) {
	b.AddSet(s)
	return b
}
