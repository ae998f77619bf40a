package translator

import "sync/atomic"

// violations counts, for each slot, the packets that were sent from ports outside
// the set of whose it was. It belongs to all snapshots: a chunk, once made, stays.
type violations []*violationChunk

const chunkSlots = 4096

type violationChunk [chunkSlots]atomic.Uint64

// grown has room for slots; what was counted stays where it is.
func (v violations) grown(slots int) violations {
	if len(v)*chunkSlots >= slots {
		return v
	}
	next := append(violations(nil), v...)
	for len(next)*chunkSlots < slots {
		next = append(next, new(violationChunk))
	}
	return next
}

func (v violations) at(slot uint32) *atomic.Uint64 {
	return &v[slot/chunkSlots][slot%chunkSlots]
}

// Violations is how many packets the owners of a slot (mapping.Entry.Slot) have sent
// from ports outside their sets. It never falls. It is 0 for a slot that no mapping
// ever had.
func (t *Translator) Violations(slot uint32) uint64 {
	return t.snapshot.Load().violations.count(slot)
}

// Denials is how many packets policies have denied to the owners of a slot, both ways. It
// never falls, as Violations does not.
func (t *Translator) Denials(slot uint32) uint64 { return t.snapshot.Load().denials.count(slot) }

func (v violations) count(slot uint32) uint64 {
	if int(slot) < len(v)*chunkSlots {
		return v.at(slot).Load()
	}
	return 0
}
