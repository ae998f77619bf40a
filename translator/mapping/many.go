package mapping

import "iter"

// many is how many mappings it takes before it pays to make room for them first.
const many = 1000

// expect makes room in an empty table.
func (e *Edit) expect(mappings []Mapping) {
	if len(mappings) < many {
		return
	}
	var n6, n4 [2 + 128]int // by length and one: what is no prefix says −1
	for i := range mappings {
		n6[mappings[i].IPv6.Bits()+1]++
		if mappings[i].Ports.IsZero() {
			n4[mappings[i].IPv4.Bits()+1]++
		}
	}
	for length := range 129 {
		if n := n6[length+1]; n >= many {
			e.index6(length).expect(n, e.epoch, six)
		}
		if n := n4[length+1]; n >= many && length <= 32 {
			e.index4(length).expect(n, e.epoch, four)
		}
	}
}

// Expect says that about n mappings will follow whose prefixes have the lengths of
// those that are there, or full length where there are none. It changes nothing but how
// long their insertion takes.
func (e *Edit) Expect(n int) {
	if n = min(n, maxCount-e.t.count); n < many {
		return
	}
	if e.t.count == 0 {
		e.index6(128).expect(n, e.epoch, six)
		e.index4(32).expect(n, e.epoch, four)
		return
	}
	grow := func(levels []level, f family) {
		for i := range levels {
			l := &levels[i]
			l.expect(l.count+int(float64(n)*float64(l.count)/float64(e.t.count)), e.epoch, f)
		}
	}
	grow(e.t.levels6, six)
	grow(e.t.levels4, four)
}

// Ahead yields what list does, each of which stands for a mapping that is to be inserted,
// and brings into the cache where these will stand, of many at once. It changes nothing
// but how long their insertion takes: of many, less than half as long. It keeps up to
// BatchLen elements of list: none may be gone with the next.
func Ahead[T any](e *Edit, list iter.Seq[T], of func(T) Mapping) iter.Seq[T] {
	return func(yield func(T) bool) {
		var b Batch
		some := make([]T, 0, BatchLen)
		flush := func() bool {
			if e.t.Large() {
				e.t.Warm(&b)
			}
			b.Reset()
			for _, one := range some {
				if !yield(one) {
					return false
				}
			}
			some = some[:0]
			return true
		}
		for one := range list {
			if m := of(one); m.IPv6.Addr().Is6() && m.IPv4.Addr().Is4() {
				b.Add6(Addr6From(m.IPv6.Addr()))
				b.Add4(Addr4From(m.IPv4.Addr()), m.Ports.Min())
			}
			if some = append(some, one); len(some) == BatchLen && !flush() {
				return
			}
		}
		flush()
	}
}
