package mapping

// An edit may write what it made itself and must copy everything else first.
// So whatever a table consists of carries the epoch of the edit that made it;
// epochs are never used twice.

const (
	pageBits = 9
	pageLen  = 1 << pageBits
)

// pages is an array in pages that are copied when written: an edit copies the
// directory and the page that it touches, not the array.
type pages[T any] struct {
	dir   []*[pageLen]T
	own   []bool // by page: made by the edit with this epoch
	epoch uint64
}

func (p *pages[T]) at(i uint32) *T { return &p.dir[i>>pageBits][i&(pageLen-1)] }

// edit is element i for writing; the array grows to hold it.
func (p *pages[T]) edit(i uint32, epoch uint64) *T {
	if p.epoch != epoch {
		p.dir = append(make([]*[pageLen]T, 0, len(p.dir)+1), p.dir...)
		p.own = make([]bool, len(p.dir), cap(p.dir))
		p.epoch = epoch
	}
	n := int(i >> pageBits)
	for n >= len(p.dir) {
		p.dir, p.own = append(p.dir, new([pageLen]T)), append(p.own, true)
	}
	if !p.own[n] {
		c := *p.dir[n]
		p.dir[n], p.own[n] = &c, true
	}
	return &p.dir[n][i&(pageLen-1)]
}
