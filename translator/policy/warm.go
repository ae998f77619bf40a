package policy

import "unsafe"

// warmFrom is from how many chunks on remotes far from each other are not all in the
// second-level cache, which others use as well.
const warmFrom = 1 << 10

// Large says that Warm is worth it.
func (t *Table) Large() bool { return t != nil && len(t.chunks) >= warmFrom }

// Warm brings into the cache what the class of each remote hangs on, so that packets
// which are judged one after the other do not wait for memory one after the other: the
// heads, and then the chunks of those who are not of their head's class. What it gives
// means nothing; who has it keeps the processor's work from being left out.
func (t *Table) Warm(remotes []uint32) (read uint64) {
	for _, a := range remotes {
		read += t.top[a>>16].differs
	}
	for _, a := range remotes {
		if h := &t.top[a>>16]; h.differs>>(a>>10&63)&1 != 0 && h.value&node != 0 {
			read += uint64(t.chunks[h.value&^node].base)
		}
	}
	return read
}

// Memory yields where judging reads that no cache has, for who can have memory be faster.
func (t *Table) Memory(yield func(at unsafe.Pointer, length uintptr) bool) {
	if t == nil {
		return
	}
	_ = yield(part(t.top)) && yield(part(t.chunks)) && yield(part(t.values)) && yield(part(t.pages)) && yield(part(t.plainLeaves)) && yield(part(t.plains))
}

func part[T any](s []T) (unsafe.Pointer, uintptr) {
	return unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s)) * unsafe.Sizeof(*new(T))
}
