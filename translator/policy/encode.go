package policy

// Offsets are where the parts of a table begin in its words.
type Offsets struct {
	Numbers                                                   uint32 // how many rows there are
	Chunks, Values, Rows, Pages, Leaves, Cells, Ranges, Words uint32
}

// lineWords is how many words the kernel reads at once: parts begin at a multiple of it.
const lineWords = 16

// headWords are those of a head.
const headWords = 4

// Offsets are those of Words.
func (t *Table) Offsets() (o Offsets) {
	if t == nil {
		return o
	}
	at := uint32(headWords * len(t.top))
	for _, part := range []struct {
		begin *uint32
		words int
	}{
		{&o.Chunks, lineWords * len(t.chunks)}, {&o.Values, len(t.values)}, {&o.Rows, len(t.rows)}, {&o.Pages, len(t.pages)},
		{&o.Leaves, pageLen * len(t.plainLeaves)}, {&o.Cells, lineWords * len(t.plains)}, {&o.Ranges, len(t.plainRanges)}, {&o.Words, 0},
	} {
		*part.begin = at
		at = (at + uint32(part.words) + lineWords - 1) &^ (lineWords - 1)
	}
	o.Numbers = uint32(len(t.rows))
	return o
}

// Words is the table as the kernel reads it, in lines of 16 words: the trie, and what is
// plainly allowed.
func (t *Table) Words() []uint32 {
	if t == nil {
		return nil
	}
	o := t.Offsets()
	words := make([]uint32, o.Words)
	for i, h := range t.top {
		copy(words[headWords*i:], []uint32{uint32(h.differs), uint32(h.differs >> 32), h.class, h.value})
	}
	for i, c := range t.chunks {
		line := words[o.Chunks+uint32(i)*lineWords:]
		for w, bits := range c.bits {
			line[2*w], line[2*w+1] = uint32(bits), uint32(bits>>32)
		}
		line[8] = c.base
		for w, n := range c.before {
			line[9] |= uint32(n) << (8 * w)
		}
	}
	copy(words[o.Values:], t.values)
	copy(words[o.Rows:], t.rows)
	copy(words[o.Pages:], t.pages)
	for i := range t.plainLeaves {
		copy(words[o.Leaves+uint32(i)*pageLen:], t.plainLeaves[i][:])
	}
	for i := range t.plains {
		for d := range t.plains[i] {
			for slot, r := range t.plains[i][d] {
				words[o.Cells+uint32(i)*lineWords+uint32(d)*8+uint32(slot)] = uint32(r)
			}
		}
	}
	copy(words[o.Ranges:], t.plainRanges)
	return words
}
