package policy

// plainTable says no more than whether something is plainly allowed: that it is and, if
// what is audited were in force, would be. Which rule says so it leaves out, so that a
// hundred thousand networks come to few different cells, which stay in the processor's
// cache. This is what the kernel has.
type plainTable struct {
	plainLeaves []leaf   // by leaf: numbers in plains
	plains      []cell   // whose refs have plainly, or nothing, or ranges in plainRanges
	plainRanges []uint32 // as in ranges, with 1 or 0 in the place of a decision
	plainOf     []uint32 // by cell
}

// Plain reports whether the rules of a direction plainly allow something: there is
// nothing to be told of it. What is not plain Judge judges.
func (t *Table) Plain(number uint16, d Direction, remote uint32, proto uint8, port uint16) bool {
	if int(number) >= len(t.rows) || t.rows[number] == noRow {
		return false
	}
	class := t.class(remote)
	r := t.plains[t.plainLeaves[t.pages[t.rows[number]+class>>pageBits]][class&(pageLen-1)]][d][slots[proto]&7]
	if r&byPort == 0 {
		return r&plainly != 0
	}
	return search(t.plainRanges, r&^byPort, port) != 0
}

// plain is the plain cell of a cell.
func (b *builder) plain(c *cell) uint32 {
	var p cell
	for d := range c {
		for slot, r := range c[d] {
			p[d][slot] = b.plainRef(r)
		}
	}
	t := b.table
	n, ok := b.plains[p]
	if !ok {
		n = uint32(len(t.plains))
		t.plains = append(t.plains, p)
		b.plains[p] = n
	}
	return n
}

func (b *builder) plainRef(r ref) ref {
	if r&byPort == 0 {
		return r & plainly
	}
	t := b.table
	var list []uint32
	for _, one := range t.ranges[r&^byPort+1:][:t.ranges[r&^byPort]] {
		is := uint32(0)
		if d := t.decisions[one&0xffff]; d.Allow && d.Would {
			is = 1
		}
		if len(list) == 0 || list[len(list)-1]&1 != is {
			list = append(list, one&^0xffff|is)
		}
	}
	if len(list) == 1 {
		return ref(list[0]&1) * plainly
	}
	key := string(words(list))
	at, ok := b.plainRanges[key]
	if !ok {
		at = ref(len(t.plainRanges))
		t.plainRanges = append(append(t.plainRanges, uint32(len(list))), list...)
		b.plainRanges[key] = at
	}
	return byPort | at
}

// known notes what a table has already.
func (b *builder) known() {
	t := b.table
	for i, p := range t.plains {
		b.plains[p] = uint32(i)
	}
	for at := 0; at < len(t.plainRanges); {
		end := at + 1 + int(t.plainRanges[at])
		b.plainRanges[string(words(t.plainRanges[at+1:end]))] = ref(at)
		at = end
	}
}

// words are numbers as bytes, to be the key of a map.
func words(list []uint32) []byte {
	b := make([]byte, 0, 4*len(list))
	for _, w := range list {
		b = append(b, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	return b
}
