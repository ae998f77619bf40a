package ports

import "slices"

// Builder is a set that changes in place, for who adds ports and takes them
// away. Where a Bitmap takes 8 KiB always, it takes four bytes for a run. The
// zero Builder is empty. It must not be copied once it was changed.
type Builder struct{ set Set }

// Add adds the ports of r.
func (b *Builder) Add(r Range) {
	if r.First > r.Last {
		return
	}
	runs := b.set.runs
	i := 0 // the first run that r reaches or touches
	if r.First > 0 {
		i = b.set.search(r.First - 1)
	}
	j := len(runs) // the first behind them
	if r.Last < Count-1 {
		if j = b.set.search(r.Last + 1); j < len(runs) && runs[j].First <= r.Last+1 {
			j++
		}
	}
	if i < j {
		r.First, r.Last = min(r.First, runs[i].First), max(r.Last, runs[j-1].Last)
	}
	b.set.runs = slices.Replace(runs, i, j, r)
}

// Remove takes the ports of r away.
func (b *Builder) Remove(r Range) {
	runs := b.set.runs
	i, j := b.set.search(r.First), b.set.search(r.Last)
	if j < len(runs) && runs[j].First <= r.Last {
		j++
	}
	if i >= j {
		return
	}
	var rest [2]Range
	keep := rest[:0]
	if first := runs[i].First; first < r.First {
		keep = append(keep, Range{first, r.First - 1})
	}
	if last := runs[j-1].Last; last > r.Last {
		keep = append(keep, Range{r.Last + 1, last})
	}
	b.set.runs = slices.Replace(runs, i, j, keep...)
}

// AddSet adds the ports of s.
func (b *Builder) AddSet(s Set) {
	for _, r := range s.runs {
		b.Add(r)
	}
}

// RemoveSet takes the ports of s away.
func (b *Builder) RemoveSet(s Set) {
	for _, r := range s.runs {
		b.Remove(r)
	}
}

// Overlaps reports whether a port of s is in b.
func (b *Builder) Overlaps(s Set) bool { return b.set.Overlaps(s) }

// Bitmap is the same ports as a bitmap.
func (b *Builder) Bitmap() Bitmap { return b.set.Bitmap() }

// IsZero reports whether b has no port.
func (b *Builder) IsZero() bool { return b.set.IsZero() }

// Set is what b has now.
func (b *Builder) Set() Set {
	if b.IsZero() {
		return Set{}
	}
	return Set{slices.Clone(b.set.runs)}
}
