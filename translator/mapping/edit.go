package mapping

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/natless/natless/translator/ports"
)

// ErrNotFound is what Remove says of a mapping that is not in the table.
var ErrNotFound = errors.New("no such mapping")

// ErrFull is what Insert says to one mapping too many.
var ErrFull = fmt.Errorf("table is full: %d mappings", maxCount)

// maxCount leaves as many slots for those that are free.
const maxCount = slotMask / 2

// Collision says that two mappings claim the same thing.
type Collision struct { // rule 1.2.duplicate
	Mapping Mapping // the one that was refused
	With    Mapping // the one that has it
	What    string  // "ipv6 2001:db8::/64", "port 1024-2047 of 192.0.2.1"
}

func (c *Collision) Error() string {
	return fmt.Sprintf("%v: %s already belongs to %v", c.Mapping, c.What, c.With)
}

// EntryError is the error of one of the mappings given to New.
type EntryError struct {
	Index int   // of the mapping that is wrong
	Other int   // of the one that it collides with, or −1
	Err   error // a *Collision when Other is not −1
}

func (e *EntryError) Error() string {
	if c := (*Collision)(nil); e.Other >= 0 && errors.As(e.Err, &c) {
		return fmt.Sprintf("mapping %d (%v) collides with mapping %d (%v): both have %s",
			e.Index, c.Mapping, e.Other, c.With, c.What)
	}
	return fmt.Sprintf("mapping %d: %v", e.Index, e.Err)
}

func (e *EntryError) Unwrap() error { return e.Err }

// New builds a table from a prefix (the zero value: none) and mappings. An
// error in a mapping is an *EntryError.
func New(prefix netip.Prefix, mappings []Mapping) (*Table, error) {
	if err := ValidatePrefix(prefix); err != nil {
		return nil, err
	}
	e := empty(prefix).Edit()
	e.expect(mappings)
	i := -1
	for m := range Ahead(e, slices.Values(mappings), func(m Mapping) Mapping { return m }) {
		i++
		err := e.Insert(m)
		if err == nil {
			continue
		}
		other := -1
		if c := (*Collision)(nil); errors.As(err, &c) {
			other = slices.IndexFunc(mappings[:i], func(m Mapping) bool { return m.IPv6 == c.With.IPv6 })
		}
		return nil, &EntryError{i, other, err}
	}
	return e.Table(), nil
}

func empty(prefix netip.Prefix) *Table {
	t := &Table{slots: 1, near4: new(near)}
	t.setPrefix(prefix)
	return t
}

// Insert gives a table that has m besides all that t has; t stays as it is.
// Its cost does not grow with the table. A refusal is a *Collision or what
// Validate says.
func (t *Table) Insert(m Mapping) (*Table, error) {
	e := t.Edit()
	if err := e.Insert(m); err != nil {
		return nil, err
	}
	return e.Table(), nil
}

// Remove gives a table without m; t stays as it is.
func (t *Table) Remove(m Mapping) (*Table, error) {
	e := t.Edit()
	if err := e.Remove(m); err != nil {
		return nil, err
	}
	return e.Table(), nil
}

// Edit is a batch of changes that gives one new table. It belongs to one
// goroutine. A change that is refused leaves the batch as it was.
type Edit struct {
	t     *Table
	epoch uint64
	held  held
}

// held is what Remove took last. A mapping of the same IPv6 prefix that comes in
// its place has its slot, and all that is counted there.
type held struct {
	v6   Addr6
	len6 uint8
	slot uint32 // 0: none
}

var epochs atomic.Uint64

// Edit begins a batch of changes to t, which stays as it is.
func (t *Table) Edit() *Edit {
	c := *t
	c.levels6, c.levels4 = slices.Clone(t.levels6), slices.Clone(t.levels4)
	return &Edit{t: &c, epoch: epochs.Add(1)}
}

// Get finds the mapping whose IPv6 prefix is exactly p, or nil, as the batch has it by now.
func (e *Edit) Get(p netip.Prefix) *Entry { return e.t.Get(p) }

// Table ends the batch and gives the table that it made.
func (e *Edit) Table() *Table {
	e.let()
	t := e.t
	t.levels6, t.levels4 = dropEmpty(t.levels6), dropEmpty(t.levels4) // which were expected
	e.t = nil
	return t
}

// Insert adds m.
func (e *Edit) Insert(m Mapping) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if err := e.t.refuses(m, 0); err != nil {
		return err
	}
	v4 := Addr4From(m.IPv4.Addr())
	slot := e.slotFor(m)
	entry := newEntry(m, slot)
	if m.Ports.Len() > 1 {
		entry = entry.mark(e.t.holed.put(newHoled(entry, m), e.epoch))
	}
	e.index6(m.IPv6.Bits()).insert(entry, e.epoch, six)
	e.setPlace(slot, hash6(entry.v6), entry.len6)
	if !m.Ports.IsZero() {
		e.share(v4).add(m.Ports, entry)
	} else {
		e.index4(m.IPv4.Bits()).insert(entry, e.epoch, four)
	}
	e.t.count++
	if m.Inside {
		e.t.insides++
	}
	if m.IPv6.Overlaps(e.t.prefix) {
		e.t.inPrefix++
	}
	e.bringNear(v4, m.IPv4.Bits())
	return nil
}

// bringNear sets the bits of every /16 that the prefix is in or covers.
func (e *Edit) bringNear(v4 uint32, length int) {
	for n := range uint32(1) << max(16-length, 0) {
		a := v4 + n<<16
		if e.t.near4.has(a) {
			continue
		}
		if e.t.near4.epoch != e.epoch {
			e.t.near4 = &near{e.t.near4.bits, e.epoch}
		}
		e.t.near4.bits[a>>22] |= 1 << (a >> 16 & 63)
	}
}

// Check says what Insert would say of m if the mapping instead were removed
// first; the zero mapping is none. It makes no table.
func (t *Table) Check(m, instead Mapping) error {
	if err := m.Validate(); err != nil {
		return err
	}
	gone := uint32(0)
	if e := t.Get(instead.IPv6); e != nil {
		gone = e.Slot()
	}
	return t.refuses(m, gone)
}

// refuses says why m cannot be among the mappings, but for that of the slot gone.
func (t *Table) refuses(m Mapping, gone uint32) error {
	if other := t.get6(Addr6From(m.IPv6.Addr()), uint8(m.IPv6.Bits())); other != nil && other.Slot() != gone {
		return &Collision{m, other.Mapping(), "ipv6 " + m.IPv6.String()}
	}
	if have := t.get4(Addr4From(m.IPv4.Addr()), uint8(m.IPv4.Bits())); have != nil {
		if err := t.collides(m, have, gone); err != nil {
			return err
		}
	}
	if t.count == maxCount && gone == 0 {
		return ErrFull
	}
	return nil
}

// collides says whether m cannot stand beside have, which has its IPv4 prefix, and
// beside those that share it, but for that of the slot gone.
func (t *Table) collides(m Mapping, have *Entry, gone uint32) error {
	if have.word&head == 0 {
		if have.Slot() == gone {
			return nil
		}
		return &Collision{m, have.Mapping(), "ipv4 " + m.IPv4.String()}
	}
	s := t.share(have)
	if m.Ports.IsZero() {
		for i := range s.owners {
			if owner := t.whole(&s.owners[i]); owner.Slot() != gone {
				return &Collision{m, owner.Mapping(), "a share of " + m.IPv4.String()}
			}
		}
	}
	for r := range m.Ports.Runs() {
		if run, ok := s.overlap(r, gone); ok {
			both := ports.Range{First: max(r.First, run.First), Last: min(r.Last, run.Last)}
			return &Collision{m, t.whole(&s.owners[run.owner]).Mapping(), fmt.Sprintf("port %v of %v", both, m.IPv4.Addr())}
		}
	}
	return nil
}

// Remove takes m away.
func (e *Edit) Remove(m Mapping) error {
	if err := m.Validate(); err != nil {
		return err
	}
	v6, v4 := Addr6From(m.IPv6.Addr()), Addr4From(m.IPv4.Addr())
	old := e.t.get6(v6, uint8(m.IPv6.Bits()))
	if old == nil || !old.Mapping().Equal(m) {
		return fmt.Errorf("%v: %w", m, ErrNotFound)
	}
	slot := old.Slot()
	if m.Ports.Len() > 1 {
		e.t.holed.drop(levelOf(e.t.levels6, old.len6).find6(v6).number(), e.epoch)
	}
	e.index6(m.IPv6.Bits()).remove(hash6(v6), e.epoch, func(b *bucket) *Entry { return b.find6(v6, hash6(v6)) }, six)
	e.t.levels6 = dropEmpty(e.t.levels6)
	if !m.Ports.IsZero() {
		e.unshare(v4, m.Ports)
	} else {
		e.remove4(v4, m.IPv4.Bits())
	}
	e.let()
	e.held = held{v6, uint8(m.IPv6.Bits()), slot}
	e.t.count--
	if m.Inside {
		e.t.insides--
	}
	if m.IPv6.Overlaps(e.t.prefix) {
		e.t.inPrefix--
	}
	return nil
}

// Police gives the mapping whose IPv6 prefix is exactly p another policy, and reports
// whether there is one.
func (e *Edit) Police(p netip.Prefix, number uint16) bool {
	have := e.t.Get(p)
	if have == nil {
		return false
	}
	if have.policy != number {
		e.police(have, number)
	}
	return true
}

// police writes a policy wherever the entry stands.
func (e *Edit) police(have *Entry, number uint16) {
	v6, v4, len4 := have.v6, have.v4, have.len4
	l := levelOf(e.t.levels6, have.len6)
	b := l.own(hash6(v6), e.epoch)
	in6 := b.find6(v6, hash6(v6))
	in6.policy = number
	if in6.word&apart != 0 {
		h := *e.t.holed.get(in6.number())
		h.policy = number
		e.t.holed.set(in6.number(), &h, e.epoch)
	}
	if have.Shared() {
		s := e.share(v4)
		s.find(have.run.First).policy = number
		return
	}
	b = levelOf(e.t.levels4, len4).own(hash4(v4), e.epoch)
	b.find4(v4, hash4(v4)).policy = number
}

// share is who owns the ports of v4, for writing, made if need be.
func (e *Edit) share(v4 uint32) *share {
	have := e.t.get4(v4, 32)
	if have == nil {
		s := &share{epoch: e.epoch}
		h := Entry{v6: Addr6{Lo: uint64(e.t.shares.put(s, e.epoch))}, v4: v4, word: shared | head, run: ports.Range{First: 1, Last: 0}, len4: 32}
		e.index4(32).insert(h, e.epoch, four)
		return s
	}
	s := e.t.share(have)
	if s.epoch != e.epoch {
		s = s.clone(e.epoch)
		e.t.shares.set(uint32(have.v6.Lo), s, e.epoch)
	}
	return s
}

// unshare takes ports of v4 away, and with the last of them the sharing.
func (e *Edit) unshare(v4 uint32, set ports.Set) {
	s := e.share(v4)
	s.remove(set)
	if len(s.runs) == 0 {
		e.t.shares.drop(uint32(e.t.get4(v4, 32).v6.Lo), e.epoch)
		e.remove4(v4, 32)
	}
}

// remove4 takes what has an IPv4 prefix out of the index.
func (e *Edit) remove4(v4 uint32, length int) {
	e.index4(length).remove(hash4(v4), e.epoch, func(b *bucket) *Entry { return b.find4(v4, hash4(v4)) }, four)
	e.t.levels4 = dropEmpty(e.t.levels4)
}

// slotFor is the slot that a mapping gets.
func (e *Edit) slotFor(m Mapping) uint32 {
	h := e.held
	if h.slot != 0 && h.v6 == Addr6From(m.IPv6.Addr()) && int(h.len6) == m.IPv6.Bits() {
		e.held = held{}
		return h.slot
	}
	return e.alloc()
}

// let makes the slot free that is held.
func (e *Edit) let() {
	if e.held.slot != 0 {
		e.release(e.held.slot)
		e.held = held{}
	}
}

// quarantine is how many slots are free before one is used again. Packets are
// counted by slot, and whoever translates one that came with an older table must
// not count it for the slot's next mapping.
const quarantine = 256

// alloc is the slot that is free for longest, once enough are, or a new one.
func (e *Edit) alloc() uint32 {
	if slot := e.t.free; slot != 0 && (e.t.freed > quarantine || e.t.slots > slotMask) {
		if e.t.free = e.t.next(slot); e.t.free == 0 {
			e.t.freeLast = 0
		}
		e.t.freed--
		return slot
	}
	e.t.slots++
	return e.t.slots - 1
}

// release makes a slot free, and puts it behind those that are.
func (e *Edit) release(slot uint32) {
	e.setPlace(slot, 0, vacant)
	if e.t.freeLast == 0 {
		e.t.free = slot
	} else {
		e.setPlace(e.t.freeLast, uint64(slot)<<32, vacant)
	}
	e.t.freeLast = slot
	e.t.freed++
}

func (e *Edit) index6(length int) *index {
	var l *level
	e.t.levels6, l = levelFor(e.t.levels6, length, e.epoch)
	l.mask6 = mask6(length)
	return &l.index
}

func (e *Edit) index4(length int) *index {
	var l *level
	e.t.levels4, l = levelFor(e.t.levels4, length, e.epoch)
	l.mask4 = uint32(math.MaxUint32) << (32 - length)
	return &l.index
}

// levelFor is the level of a prefix length, put in its place if it is new.
func levelFor(levels []level, length int, epoch uint64) ([]level, *level) {
	i, found := slices.BinarySearchFunc(levels, length, func(l level, n int) int { return n - int(l.length) })
	if !found {
		levels = slices.Insert(levels, i, level{length: uint8(length), index: newIndex(epoch)})
	}
	return levels, &levels[i]
}

// dropEmpty takes the levels without entries away: a lookup probes the others.
func dropEmpty(levels []level) []level {
	return slices.DeleteFunc(levels, func(l level) bool { return l.count == 0 })
}
