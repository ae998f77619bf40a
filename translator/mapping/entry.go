package mapping

import (
	"net/netip"

	"github.com/natless/natless/translator/ports"
)

// Entry is one mapping as the hot path reads it. It belongs to its Table and
// must not be changed.
type Entry struct {
	v6         Addr6
	v4         uint32 // in a free entry: the next free slot
	word       uint32 // slot in the low 24 bits, flags above
	run        ports.Range
	len6, len4 uint8
	policy     uint16 // see Policy; 0: none
	set        *set   // the port set, when it has holes
	share      *share // in the head of a shared address: who owns its ports
}

// set is a port set with holes, and its identification cube.
type set struct {
	ports      ports.Set
	base, mask uint16
}

const (
	slotBits = 24
	slotMask = 1<<slotBits - 1

	live   = 1 << 24 // a mapping, not a free entry and not a head
	shared = 1 << 25 // ports decide
	inside = 1 << 26 // the workload has the IPv4 address itself
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
	if m.Ports.IsZero() {
		return e
	}
	e.word |= shared
	e.run = m.Ports.Longest()
	if m.Ports.Len() > 1 {
		e.set = &set{ports: m.Ports}
		e.set.base, e.set.mask = cube(m.Ports)
	}
	return e
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
	if e.set != nil {
		return e.set.ports.Contains(port)
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
	if e.set != nil {
		return e.set.base, e.set.mask
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
	return e.v6 == o.v6 && e.v4 == o.v4 && e.len6 == o.len6 && e.len4 == o.len4 && e.Shared() == o.Shared() && e.Inside() == o.Inside() &&
		e.policy == o.policy && e.run == o.run && (e.set == o.set || e.set != nil && o.set != nil && e.set.ports.Equal(o.set.ports))
}

// IPv6 is the IPv6 prefix of the mapping.
func (e *Entry) IPv6() netip.Prefix { return netip.PrefixFrom(e.v6.Addr(), int(e.len6)) }

// portSet is the port set of a shared mapping.
func (e *Entry) portSet() ports.Set {
	if e.set != nil {
		return e.set.ports
	}
	return ports.Of(e.run)
}
