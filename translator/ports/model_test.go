package ports

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// model is a set said in the slowest way, which the others are compared with.
type model [Count]bool

func (m *model) put(r Range, member bool) {
	for p := int(r.First); p <= int(r.Last); p++ {
		m[p] = member
	}
}

// runs are the model's in canonical form.
func (m *model) runs() (runs []Range) {
	for p := range m {
		switch {
		case !m[p]:
		case p > 0 && m[p-1]:
			runs[len(runs)-1].Last = uint16(p)
		default:
			runs = append(runs, Single(uint16(p)))
		}
	}
	return runs
}

// check compares a set with the model, and what it says of itself.
func (m *model) check(t *testing.T, s Set, format string, words ...any) {
	t.Helper()
	want, size := m.runs(), 0
	for _, r := range want {
		size += r.Size()
	}
	if got := (Set{want}); !s.Equal(got) || s.Size() != size || s.IsZero() != (size == 0) || s.Len() != len(want) {
		t.Fatalf("%s: %v of %d ports, want %v of %d", fmt.Sprintf(format, words...), s, s.Size(), got, size)
	}
	if s.IsZero() && s.runs != nil {
		t.Fatalf("%s: an empty set that is not the zero value", fmt.Sprintf(format, words...))
	}
}

// overlaps is whether a port of r is a member, all whether all are.
func (m *model) overlaps(r Range) (some, all bool) {
	all = true
	for p := int(r.First); p <= int(r.Last); p++ {
		some, all = some || m[p], all && m[p]
	}
	return some, all
}

// play does what the program says on every kind of set and on the model: six
// bytes are a step, which takes a set and two ports.
func play(t *testing.T, program []byte) {
	var models [2]model
	var builders [2]Builder
	var bitmaps [2]Bitmap
	for ; len(program) >= 6; program = program[6:] {
		n, a, z := int(program[0]&1), binary.BigEndian.Uint16(program[2:]), binary.BigEndian.Uint16(program[4:])
		r := Range{min(a, z), max(a, z)}
		m, b, bm := &models[n], &builders[n], &bitmaps[n]
		switch program[1] % 3 {
		case 0:
			m.put(r, true)
			b.Add(r)
			bm.Add(r)
		case 1:
			m.put(r, false)
			b.Remove(r)
			bm.Remove(r)
		default:
			some, all := m.overlaps(r)
			s := b.Set()
			if s.OverlapsRange(r) != some || bm.OverlapsRange(r) != some || b.Overlaps(Of(r)) != some || bm.Overlaps(Of(r)) != some {
				t.Fatalf("%v overlaps %v: not %v", r, s, some)
			}
			if s.ContainsRange(r) != all || s.Contains(a) != m[a] || bm.Contains(z) != m[z] {
				t.Fatalf("%v contains %v: not %v, or %d or %d wrongly", s, r, all, a, z)
			}
		}
		if len(program) < 12 || program[1]%16 == 15 {
			compare(t, &models, &builders, &bitmaps)
		}
	}
}

func compare(t *testing.T, models *[2]model, builders *[2]Builder, bitmaps *[2]Bitmap) {
	var union, both, first, not model
	overlap := false
	a, b := &models[0], &models[1]
	for p := range a {
		union[p], both[p], first[p], not[p] = a[p] || b[p], a[p] && b[p], a[p] && !b[p], !a[p]
		overlap = overlap || both[p]
	}
	s, o := builders[0].Set(), builders[1].Set()
	before := s.String() + " " + o.String()
	a.check(t, s, "set")
	union.check(t, s.Union(o), "%v ∪ %v", s, o)
	both.check(t, s.Intersect(o), "%v ∩ %v", s, o)
	first.check(t, s.Subtract(o), "%v − %v", s, o)
	not.check(t, s.Complement(), "not %v", s)
	if s.Overlaps(o) != overlap || o.Overlaps(s) != overlap || builders[0].Overlaps(o) != overlap || bitmaps[0].Overlaps(o) != overlap {
		t.Fatalf("%v overlaps %v: not %v", s, o, overlap)
	}
	if s.Bitmap() != bitmaps[0] || builders[0].Bitmap() != bitmaps[0] || bitmaps[0].Size() != s.Size() {
		t.Fatalf("%v is not the bitmap", s)
	}
	compareEdits(t, s, o, bitmaps)
	var listed model
	for p := range s.Ports() {
		listed[p] = true
	}
	if listed != *a {
		t.Fatalf("the ports of %v are others", s)
	}
	if back, err := Parse(s.String()); err != nil || !back.Equal(s) {
		t.Fatalf("%v comes back as %v, %v", s, back, err)
	}
	if text, err := s.MarshalJSON(); err != nil {
		t.Fatal(err)
	} else if back := (Set{}); back.UnmarshalJSON(text) != nil || !back.Equal(s) {
		t.Fatalf("%s comes back as %v", text, back)
	}
	if after := s.String() + " " + o.String(); after != before {
		t.Fatalf("%s have changed into %s", before, after)
	}
}

// compareEdits compares adding and removing whole sets with the algebra.
func compareEdits(t *testing.T, s, o Set, bitmaps *[2]Bitmap) {
	var more, less Builder
	more.AddSet(s)
	more.AddSet(o)
	less.AddSet(s)
	less.RemoveSet(o)
	moreBits, lessBits, sum := bitmaps[0], bitmaps[0], bitmaps[0]
	moreBits.AddSet(o)
	lessBits.RemoveSet(o)
	sum.AddBitmap(&bitmaps[1])
	union, rest := s.Union(o), s.Subtract(o)
	if !more.Set().Equal(union) || moreBits != union.Bitmap() || sum != moreBits {
		t.Fatalf("%v and %v added are not %v", s, o, union)
	}
	if !less.Set().Equal(rest) || lessBits != rest.Bitmap() {
		t.Fatalf("%v without %v is not %v", s, o, rest)
	}
}

// TestModel plays long programs whose ports meet often: ranges that overlap,
// touch, lie inside each other, and reach the first and the last port.
func TestModel(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 4))
	edges := []uint16{0, 1, 63, 64, 65, 127, 128, 1000, 1001, 1002, 65533, 65534, 65535}
	for range 25 {
		var program []byte
		for range 60 {
			program = append(program, byte(rnd.Uint32()), byte(rnd.Uint32()))
			for range 2 {
				port := edges[rnd.IntN(len(edges))]
				if rnd.IntN(3) == 0 {
					port = uint16(rnd.Uint32())
				}
				program = binary.BigEndian.AppendUint16(program, port)
			}
		}
		play(t, program)
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 255, 255, 1, 0, 0, 1, 255, 254, 0, 2, 0, 0, 255, 255})
	f.Fuzz(play)
}

// TestBlocks compares the search for room with one that looks at every port.
func TestBlocks(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for size := 1; size <= Count; size *= 2 {
		for range 8 {
			var b, closed Bitmap
			if size <= 4096 {
				b.Add(Range{0, uint16(rnd.IntN(60000))})
			}
			for range rnd.IntN(3000) * min(1, 4096/size) {
				b.Add(Range{60000, 60000 + uint16(rnd.IntN(min(size, 4096)))})
				closed.Add(Single(uint16(rnd.IntN(Count))))
			}
			want, found, n := slowBlocks(&b, &closed, size)
			if got, ok := b.FreeBlock(&closed, size); got != want || ok != found {
				t.Fatalf("size %d: %v %v, want %v %v", size, got, ok, want, found)
			}
			if got := b.FreeBlocks(&closed, size); got != n {
				t.Fatalf("size %d: %d blocks, want %d", size, got, n)
			}
		}
	}
}

func slowBlocks(b, closed *Bitmap, size int) (lowest Range, found bool, n int) {
	for first := 0; first < Count; first += size {
		free := true
		for p := first; p < first+size && free; p++ {
			free = !b.Contains(uint16(p)) && !closed.Contains(uint16(p))
		}
		if free && !found {
			lowest, found = Range{uint16(first), uint16(first + size - 1)}, true
		}
		if free {
			n++
		}
	}
	return lowest, found, n
}
