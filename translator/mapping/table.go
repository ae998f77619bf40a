package mapping

import (
	"iter"
	"net/netip"
	"runtime"
	"unsafe"
)

// Table is an immutable snapshot of one RFC 6052 prefix and any number of
// mappings, up to eight million. Every method may be called by any number of
// goroutines.
type Table struct {
	pages    directory[*page] // where entries are, by slot
	levels6  []level          // prefix lengths in use, longest first
	levels4  []level
	holed    store[holed]
	shares   store[share] // by the numbers in their heads
	near4    *near
	embedded rfc6052
	prefix   netip.Prefix
	inPrefix int // mappings whose IPv6 prefix overlaps prefix; never 0 without one
	count    int
	insides  int    // of them, those with IPv4 inside
	slots    uint32 // entries in use or free: all slots are below
	free     uint32 // the slot that is free for longest, or 0; see release
	freeLast uint32
	freed    int // free slots
}

// near has a bit for each IPv4 /16 that a mapping is in or covers, so that most
// addresses of the Internet are answered from the first-level cache. A bit stays
// when its mappings go: that costs time, not truth, and a reload starts anew.
type near struct {
	bits  [1 << 16 / 64]uint64
	epoch uint64
}

func (n *near) has(a uint32) bool { return n.bits[a>>22]>>(a>>16&63)&1 != 0 }

// level is the index of the entries with one prefix length.
type level struct {
	index
	mask6  Addr6
	mask4  uint32
	length uint8
}

// Prefix is the RFC 6052 prefix, or the zero Prefix.
func (t *Table) Prefix() netip.Prefix { return t.prefix }

// Len is the number of mappings.
func (t *Table) Len() int { return t.count }

// AnyInside says that a workload has its IPv4 address inside.
func (t *Table) AnyInside() bool { return t.insides > 0 }

// Slots is a number that all of the table's slots are below.
func (t *Table) Slots() int { return int(t.slots) }

// Lookup6 finds the mapping with the longest IPv6 prefix that covers a, or nil.
// Every other address of a packet lies in the RFC 6052 prefix, where there are
// hardly ever mappings, so that is asked first.
func (t *Table) Lookup6(a Addr6) *Entry {
	if t.inPrefix == 0 && t.embedded.contains(a) {
		return nil
	}
	for i := range t.levels6 { // rule 1.2.longest-prefix
		l := &t.levels6[i]
		if e := l.find6(Addr6{a.Hi & l.mask6.Hi, a.Lo & l.mask6.Lo}); e != nil {
			return t.whole(e)
		}
	}
	return nil
}

// Lookup4 finds the mapping with the longest IPv4 prefix that covers a, or nil.
// For an address that workloads share, it is an entry that answers true to
// Shared and to nothing else: Port decides.
func (t *Table) Lookup4(a uint32) *Entry {
	if !t.near4.has(a) {
		return nil
	}
	for i := range t.levels4 {
		l := &t.levels4[i]
		if e := l.find4(a & l.mask4); e != nil {
			return t.whole(e)
		}
	}
	return nil
}

func (l *level) find6(key Addr6) *Entry {
	h := hash6(key)
	return l.dir.at(l.of(h)).find6(key, h)
}

func (l *level) find4(key uint32) *Entry {
	h := hash4(key)
	return l.dir.at(l.of(h)).find4(key, h)
}

// Port is the mapping that owns the port of the shared address a, whose entry
// from Lookup4 is e, or nil when nobody owns it.
func (t *Table) Port(e *Entry, a uint32, port uint16) *Entry {
	if e.word&head == 0 {
		return nil
	}
	return t.whole(t.share(e).find(port))
}

// share is who owns the ports of a head's address.
func (t *Table) share(e *Entry) *share { return t.shares.get(uint32(e.v6.Lo)) }

// Embed puts a into the RFC 6052 prefix (section 2.2). It panics without one.
func (t *Table) Embed(a uint32) Addr6 {
	if t.embedded.length == 0 {
		panic("mapping: no RFC 6052 prefix")
	}
	return t.embedded.embed(a)
}

// Extract takes the IPv4 address out of a; ok is false when the prefix does
// not cover a, or when there is none.
func (t *Table) Extract(a Addr6) (v4 uint32, ok bool) { return t.embedded.extract(a) }

// Get finds the mapping whose IPv6 prefix is exactly p, or nil.
func (t *Table) Get(p netip.Prefix) *Entry {
	if !p.IsValid() || !p.Addr().Is6() {
		return nil
	}
	return t.get6(Addr6From(p.Masked().Addr()), uint8(p.Bits()))
}

func (t *Table) get6(key Addr6, length uint8) *Entry {
	if l := levelOf(t.levels6, length); l != nil {
		return t.whole(l.find6(key))
	}
	return nil
}

func (t *Table) get4(key uint32, length uint8) *Entry {
	if l := levelOf(t.levels4, length); l != nil {
		return t.whole(l.find4(key))
	}
	return nil
}

func levelOf(levels []level, length uint8) *level {
	for i := range levels {
		if levels[i].length == length {
			return &levels[i]
		}
	}
	return nil
}

// All yields every mapping, in no particular order.
func (t *Table) All() iter.Seq[Mapping] {
	return func(yield func(Mapping) bool) {
		for e := range t.Entries() {
			if !yield(e.Mapping()) {
				return
			}
		}
	}
}

// Holds reports whether the mapping of an entry of any table is in this one, too. It
// takes a third of the time that a comparison of mappings in words would.
func (t *Table) Holds(e *Entry) bool {
	have := t.get6(e.v6, e.len6)
	return have != nil && have.same(e)
}

// At is the entry of the mapping that has a slot, or nil.
func (t *Table) At(slot uint32) *Entry {
	if slot == 0 || slot >= t.slots {
		return nil
	}
	return t.whole(t.entry(slot))
}

// Memory yields where lookups read that no cache has, for who can have memory be faster.
func (t *Table) Memory(yield func(at unsafe.Pointer, length uintptr) bool) {
	for _, levels := range [][]level{t.levels6, t.levels4} {
		for i := range levels {
			for b := range levels[i].buckets {
				if !yield(unsafe.Pointer(unsafe.SliceData(b.lines)), uintptr(len(b.lines))*unsafe.Sizeof(line{})) {
					return
				}
			}
		}
	}
	for i := range t.shares.count {
		if s := t.shares.get(i); s != nil && (!yield(unsafe.Pointer(s), unsafe.Sizeof(*s)) ||
			!yield(unsafe.Pointer(unsafe.SliceData(s.owners)), uintptr(len(s.owners))*unsafe.Sizeof(Entry{}))) {
			return
		}
	}
}

// breath is after how many entries others come first who have something to do: a
// million of them take a second, and who is at it would be interrupted only each ten
// milliseconds. A put in the API waits for a processor several times.
const breath = 1 << 10

// Entries yields the entry of every mapping by rising Slot. It finds several before
// it gives the first away: their searches do not wait for each other.
func (t *Table) Entries() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		var ahead [32]*Entry
		for slot := uint32(1); slot < t.slots; {
			n := 0
			for ; n < len(ahead) && slot < t.slots; slot++ {
				if slot%breath == 0 {
					runtime.Gosched()
				}
				if e := t.entry(slot); e != nil {
					ahead[n] = e
					n++
				}
			}
			for _, e := range ahead[:n] {
				if !yield(t.whole(e)) {
					return
				}
			}
		}
	}
}
