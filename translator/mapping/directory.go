package mapping

// An edit may write what it made itself and must copy everything else first.
// So whatever a table consists of carries the epoch of the edit that made it;
// epochs are never used twice.

// directory is an array of pointers to leaves, cut into chunks so that an edit
// copies little: one chunk and the list of chunks, not the array.
type directory[L any] struct {
	chunks []*chunk[L]
	count  uint32 // of leaves
	epoch  uint64 // of chunks, the list
}

const (
	chunkBits = 7
	chunkLen  = 1 << chunkBits
)

type chunk[L any] struct {
	leaf  [chunkLen]*L
	epoch uint64
}

func (d *directory[L]) at(i uint32) *L { return d.chunks[i>>chunkBits].leaf[i&(chunkLen-1)] }

// set makes leaf the i-th, of those there are or behind them.
func (d *directory[L]) set(i uint32, leaf *L, epoch uint64) {
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

// page is a leaf of entries; the entry of a slot is where its number says.
type page struct {
	entries [pageLen]Entry
	epoch   uint64
}

const (
	pageBits = 7
	pageLen  = 1 << pageBits
)

func (t *Table) entry(slot uint32) *Entry {
	return &t.pages.at(slot >> pageBits).entries[slot&(pageLen-1)]
}

// entry is the entry of slot for writing.
func (e *Edit) entry(slot uint32) *Entry {
	n := slot >> pageBits
	var p *page
	if n == e.t.pages.count {
		p = &page{epoch: e.epoch}
		e.t.pages.set(n, p, e.epoch)
	} else if p = e.t.pages.at(n); p.epoch != e.epoch {
		c := *p
		c.epoch = e.epoch
		p = &c
		e.t.pages.set(n, p, e.epoch)
	}
	return &p.entries[slot&(pageLen-1)]
}
