package registry

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// held is an assignment as the registry keeps it: packed as on disk, since there may
// be a million of them, which the garbage collector then need not look into. Its
// address is its identity: the same assignment under another name is another.
type held struct{ record string }

// assignment unpacks it.
func (h *held) assignment() *Assignment {
	a := new(Assignment)
	h.into(a, nil)
	return a
}

// into unpacks into a, whose lists then lie in room, if there is some.
func (h *held) into(a *Assignment, room *scratch) {
	if _, err := unpack(a, h.record, room); err != nil {
		panic("registry: " + err.Error()) // it was packed by us
	}
	a.held = h
}

// scratch is room for the lists of an assignment that nobody keeps.
type scratch struct {
	ipv6  []netip.Addr
	extra []uint16
	run   []ports.Range // for the one that nearly all have: more may be kept by a table
}

func newScratch() *scratch {
	return &scratch{make([]netip.Addr, maxIPv6), make([]uint16, maxExtra), make([]ports.Range, 1)}
}

// breath is after how many assignments others come first who have something to do.
const breath = 1 << 10

// look gives assignments one after the other. Each is for looking at, and is gone with
// the next.
func look(all []*held) iter.Seq[*Assignment] {
	return func(yield func(*Assignment) bool) {
		var a Assignment
		room := newScratch()
		for i, h := range all {
			if i%breath == breath-1 {
				runtime.Gosched()
			}
			if h.into(&a, room); !yield(&a) {
				return
			}
		}
	}
}

// index finds what is held by something that belongs to one alone. It is a hash table
// in pieces, so that it grows by one piece at a time.
type index struct {
	pieces [1 << pieceBits]piece
	n      int
}

const pieceBits = 8

// piece is open-addressed, and never more than three quarters full.
type piece struct {
	held []*held  // nil: nobody is here
	hash []uint32 // of what is here
	n    int
}

var seed = maphash.MakeSeed()

func hashKey(k api.Key) uint64 {
	return maphash.String(seed, k.ContainerID) ^ maphash.String(seed, k.Interface)*0x9e3779b97f4a7c15
}

func hashIPv6(a netip.Addr) uint64 { return maphash.Comparable(seed, a.As16()) }

func hashSerial(n uint64) uint64 { return maphash.Comparable(seed, n) }

func (x *index) of(hash uint64) *piece { return &x.pieces[hash>>(64-pieceBits)] }

// find is what is there under a hash and is the one that is wanted, or nil.
func (x *index) find(hash uint64, is func(*held) bool) *held {
	p := x.of(hash)
	if len(p.held) == 0 {
		return nil
	}
	mask := uint32(len(p.held) - 1)
	for i := uint32(hash) & mask; p.held[i] != nil; i = (i + 1) & mask {
		if p.hash[i] == uint32(hash) && is(p.held[i]) {
			return p.held[i]
		}
	}
	return nil
}

// expect makes room for n.
func (x *index) expect(n int) {
	for i := range x.pieces {
		x.pieces[i].resize(n >> pieceBits * 4 / 3)
	}
}

// resize makes room in a piece for more than least slots.
func (p *piece) resize(least int) {
	size := 1
	for size <= least {
		size *= 2
	}
	if size <= len(p.held) {
		return
	}
	old := *p
	*p = piece{make([]*held, size), make([]uint32, size), 0}
	for i, h := range old.held {
		if h != nil {
			p.put(old.hash[i], h)
		}
	}
}

func (p *piece) put(hash uint32, h *held) {
	mask := uint32(len(p.held) - 1)
	i := hash & mask
	for p.held[i] != nil {
		i = (i + 1) & mask
	}
	p.held[i], p.hash[i] = h, hash
	p.n++
}

func (x *index) add(hash uint64, h *held) {
	p := x.of(hash)
	p.resize((p.n + 1) * 4 / 3)
	p.put(uint32(hash), h)
	x.n++
}

// remove takes away what is there under a hash, and closes the gap.
func (x *index) remove(hash uint64, h *held) {
	p := x.of(hash)
	if len(p.held) == 0 {
		return
	}
	mask := uint32(len(p.held) - 1)
	i := uint32(hash) & mask
	for p.held[i] != h {
		if p.held[i] == nil {
			return
		}
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; p.held[j] != nil; j = (j + 1) & mask {
		if (j-p.hash[j])&mask >= (j-i)&mask { // the gap lies on its way
			p.held[i], p.hash[i] = p.held[j], p.hash[j]
			i = j
		}
	}
	p.held[i] = nil
	p.n--
	x.n--
}

// all is everything that is held, in no order.
func (x *index) all() []*held {
	list := make([]*held, 0, x.n)
	for i := range x.pieces {
		list = x.pieces[i].list(list)
	}
	return list
}

// list adds what the piece holds to a list.
func (p *piece) list(list []*held) []*held {
	for _, h := range p.held {
		if h != nil {
			list = append(list, h)
		}
	}
	return list
}

// byKey is what a workload has, or nil.
func (s *state) byKey(k api.Key) *held {
	return s.assignments.find(hashKey(k), func(h *held) bool {
		_, container, iface := h.key()
		return container == k.ContainerID && iface == k.Interface
	})
}

// assignment is byKey, unpacked.
func (s *state) assignment(k api.Key) *Assignment {
	if h := s.byKey(k); h != nil {
		return h.assignment()
	}
	return nil
}

// has reports whether an assignment is there as it is.
func (s *state) has(a *Assignment) bool { return a.held != nil && s.byKey(a.Key) == a.held }

func (s *state) byIPv6(a netip.Addr) *held {
	return s.ipv6.find(hashIPv6(a), func(h *held) bool {
		return slices.Contains(h.assignment().Request.IPv6, a) // the hash is the same, so it is the one
	})
}

func (s *state) bySerial(n uint64) *held {
	return s.serials.find(hashSerial(n), func(h *held) bool {
		serial, _, _ := h.key()
		return serial == n
	})
}

// key is what a record begins with.
func (h *held) key() (serial uint64, container, iface string) {
	u := unpacker{rest: h.record[1:]}
	serial, _ = u.number(), u.number()
	return serial, u.text(), u.text()
}

// pack is an assignment as it is held.
func pack(a *Assignment) *held { return &held{string(encode(a, time.Time{}))} }
