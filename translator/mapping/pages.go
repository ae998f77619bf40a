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
	dir   []pageRef[T]
	epoch uint64 // of the directory
}

type pageRef[T any] struct {
	page  *[pageLen]T
	epoch uint64
}

func (p *pages[T]) at(i uint32) *T { return &p.dir[i>>pageBits].page[i&(pageLen-1)] }

// edit is element i for writing; the array grows to hold it.
func (p *pages[T]) edit(i uint32, epoch uint64) *T {
	if p.epoch != epoch {
		p.dir = append(make([]pageRef[T], 0, len(p.dir)+1), p.dir...)
		p.epoch = epoch
	}
	for int(i>>pageBits) >= len(p.dir) {
		p.dir = append(p.dir, pageRef[T]{new([pageLen]T), epoch})
	}
	r := &p.dir[i>>pageBits]
	if r.epoch != epoch {
		c := *r.page
		*r = pageRef[T]{&c, epoch}
	}
	return &r.page[i&(pageLen-1)]
}
