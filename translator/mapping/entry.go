package mapping

import (
	"net/netip"
	"unsafe"

	"github.com/natless/natless/translator/ports"
)

// Entry is one mapping as the hot path reads it: half a line of the processor's
// cache, without a pointer, so that a million of them are nothing to the garbage
// collector. It belongs to its Table and must not be changed.
type Entry struct {
	v6         Addr6  // of a head: Lo is the number of its share
	v4         uint32 // of what stands apart, too
	word       uint32 // slot in the low 24 bits, flags above; 0: there is none
	run        ports.Range
	len6, len4 uint8
	policy     uint16 // see Policy; 0: none
}

// holed is an entry whose port set has holes. Where others have theirs stands a mark
// that leads to it. Whoever has an Entry with holes among its flags has one of these.
type holed struct {
	Entry
	ports      ports.Set
	base, mask uint16 // the identification cube
}

const (
	slotBits = 24
	slotMask = 1<<slotBits - 1

	live   = 1 << 24 // a mapping, not a head
	shared = 1 << 25 // ports decide
	inside = 1 << 26 // the workload has the IPv4 address itself
	head   = 1 << 27 // stands for all that share an address
	holes  = 1 << 28 // it is the first part of a holed
	apart  = 1 << 29 // a mark: run is the number of a holed
)

// newEntry makes the entry of m, which is valid and in normal form.
func newEntry(m Mapping, slot uint32) Entry {
	e := Entry{
		v6: Addr6From(m.IPv6.Addr()), v4: Addr4From(m.IPv4.Addr()),
		word: slot | live, run: ports.Range{First: 0, Last: 65535},
		len6: uint8(m.IPv6.Bits()), len4: uint8(m.IPv4.Bits()),
		policy: m.Policy,
	}
	if m.Inside {
		e.word |= inside
	}
	if !m.Ports.IsZero() {
		e.word |= shared
		e.run = m.Ports.Longest()
	}
	return e
}

// newHoled makes of e, which is m's, one with m's ports.
func newHoled(e Entry, m Mapping) *holed {
	e.word |= holes
	h := &holed{Entry: e, ports: m.Ports}
	h.base, h.mask = cube(m.Ports)
	return h
}

// holed is what e is part of, or nil.
func (e *Entry) holed() *holed {
	if e.word&holes == 0 {
		return nil
	}
	return (*holed)(unsafe.Pointer(e)) // e is its first part: newHoled alone sets the flag
}

// mark is the mark that leads to the holed that has a number.
func (e *Entry) mark(number uint32) Entry {
	m := *e
	m.word = m.word&^holes | apart
	m.run = ports.Range{First: uint16(number >> 16), Last: uint16(number)}
	return m
}

// number is that of the holed that a mark leads to.
func (e *Entry) number() uint32 { return uint32(e.run.First)<<16 | uint32(e.run.Last) }

// whole is e, or what it leads to.
func (t *Table) whole(e *Entry) *Entry {
	if e == nil || e.word&apart == 0 {
		return e
	}
	return &t.holed.get(e.number()).Entry
}

// Shared says that ports decide: the mapping has a port set.
func (e *Entry) Shared() bool { return e.word&shared != 0 }

// Inside says that the workload has its IPv4 address itself: it speaks IPv4,
// and no IPv6 is made of what is for it.
func (e *Entry) Inside() bool { return e.word&inside != 0 }

// Policy is the number of what its workload is held to (policy.Table.Number); 0: nothing.
func (e *Entry) Policy() uint16 { return e.policy }

// clientPorts of a whole address are those from here on: what Linux takes by itself
// (ip_local_port_range) lies there.
const clientPorts = 32768

// Client says that the workload's own connections come from a port, as a rule: of a
// share, it is in the run that pools allocate for that.
func (e *Entry) Client(port uint16) bool {
	if !e.Shared() {
		return port >= clientPorts
	}
	base, mask := alignedBlock(e.run)
	return port&^mask == base
}

// ClientPorts is how many ports those are: of a share a power of two, at a multiple of it.
func (e *Entry) ClientPorts() int {
	if !e.Shared() {
		return 1<<16 - clientPorts
	}
	_, mask := alignedBlock(e.run)
	return int(mask) + 1
}

// Addr4 is the first IPv4 address of the mapping: the only one, of a workload that has it inside.
func (e *Entry) Addr4() uint32 { return e.v4 }

// To4 copies the suffix bits that both prefixes have: those right behind the
// IPv6 prefix become the IPv4 suffix (RFC 7757 3.3). A shift by 64 or more is
// zero, also one by a negative count, which is a large one in a uint8.
func (e *Entry) To4(a Addr6) uint32 {
	suffix := a.Hi<<e.len6 | a.Lo>>(64-e.len6) | a.Lo<<(e.len6-64) // rule 1.2.suffix
	return e.v4 | uint32(suffix>>32>>e.len4)
}

// To6 is the other way of To4: what the IPv6 suffix has more is zero.
func (e *Entry) To6(a uint32) Addr6 {
	suffix := uint64(a) << 32 << e.len4
	return Addr6{e.v6.Hi | suffix>>e.len6, e.v6.Lo | suffix<<(64-e.len6) | suffix>>(e.len6-64)}
}

// Owns says whether port is in the entry's port set; always true without one.
func (e *Entry) Owns(port uint16) bool {
	if h := e.holed(); h != nil {
		return h.ports.Contains(port)
	}
	return e.run.Contains(port)
}

// EchoRange is the longest contiguous run of the port set (the first of
// several): echo identifiers outside the set are folded into it.
func (e *Entry) EchoRange() ports.Range { return e.run }

// IdentificationRange is the share of the 16-bit IPv4 identification space
// that fragments of this workload may use: base | (id & mask). Whole: 0, 0xffff.
//
// The identifications of a workload are numbered as its ports are: base | (id &
// mask) is always a number in its port set. Sets on one address are disjoint,
// so identifications are too; they depend on nothing but the mapping, so none
// changes when others come and go; and a fragment shows whose it is. A run that
// is a power of two and aligned to it, as pools allocate them, is used in full.
func (e *Entry) IdentificationRange() (base, mask uint16) {
	if h := e.holed(); h != nil {
		return h.base, h.mask
	}
	return alignedBlock(e.run)
}

// Slot is a small dense number of this mapping, stable while the mapping stays
// in the table and its successors, for per-workload counters. It is below
// Table.Slots; a later mapping may get it when this one is gone.
func (e *Entry) Slot() uint32 { return e.word & slotMask }

// Mapping gives the mapping back in words.
func (e *Entry) Mapping() Mapping {
	m := Mapping{
		IPv6: e.IPv6(),
		IPv4: netip.PrefixFrom(Addr4(e.v4), int(e.len4)),

		Inside: e.Inside(),
		Policy: e.policy,
	}
	if e.Shared() {
		m.Ports = e.portSet()
	}
	return m
}

// same says that o, of any table, is the same mapping.
func (e *Entry) same(o *Entry) bool {
	return e.v6 == o.v6 && e.v4 == o.v4 && e.len6 == o.len6 && e.len4 == o.len4 && (e.word^o.word)&^slotMask == 0 &&
		e.policy == o.policy && e.run == o.run && (e.word&holes == 0 || e.portSet().Equal(o.portSet()))
}

// IPv6 is the IPv6 prefix of the mapping.
func (e *Entry) IPv6() netip.Prefix { return netip.PrefixFrom(e.v6.Addr(), int(e.len6)) }

// portSet is the port set of a shared mapping.
func (e *Entry) portSet() ports.Set {
	if h := e.holed(); h != nil {
		return h.ports
	}
	return ports.Of(e.run)
}
