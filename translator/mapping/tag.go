package mapping

import (
	"encoding/binary"
	"math/bits"
)

// Tag names a mapping, in 40 bits, to who hands packets to and fro while tables
// change: a tag of one that is gone is not another's who has its slot since.
type Tag uint64

// Tag names the entry. It is the same for as long as the mapping keeps its slot.
func (e *Entry) Tag() Tag {
	check := e.v6.Hi*0x9e3779b97f4a7c15 ^ bits.RotateLeft64(e.v6.Lo*0xd6e8feb86659fd93, 32)
	return Tag(check>>48<<slotBits | uint64(e.Slot()))
}

// Tagged is the entry that a tag names, or nil.
func (t *Table) Tagged(tag Tag) *Entry {
	if e := t.At(uint32(tag & slotMask)); e != nil && e.Tag() == tag {
		return e
	}
	return nil
}

// localMAC is the first octet of the addresses that name tags: unicast, and nobody
// has them from a maker (IEEE 802-2014 8.4).
const localMAC = 0x02

// TagLen is how long the address is that names a tag.
const TagLen = 6

// Put writes the tag as an Ethernet address.
func (t Tag) Put(b []byte) {
	_ = b[TagLen-1]
	b[0], b[1] = localMAC, byte(t>>32)
	binary.BigEndian.PutUint32(b[2:], uint32(t))
}

// TagOf reads what Put wrote; any other address is a tag that nobody has.
func TagOf(b []byte) Tag {
	if _ = b[TagLen-1]; b[0] != localMAC {
		return 0
	}
	return Tag(b[1])<<32 | Tag(binary.BigEndian.Uint32(b[2:]))
}
