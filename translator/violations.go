package translator

import "sync/atomic"

// violations counts, for each mapping, the packets that its workload sent from
// ports outside its set. It belongs to all snapshots: a chunk, once made, stays.
type violations []*violationChunk

const chunkSlots = 4096

type violationChunk [chunkSlots]atomic.Uint32

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

func (v violations) at(slot uint32) *atomic.Uint32 {
	return &v[slot/chunkSlots][slot%chunkSlots]
}

// Violations is how many packets the workload of the mapping with this slot
// (mapping.Entry.Slot) sent from ports outside its set, modulo 2³², since the
// slot was last forgiven; 0 for a slot that no mapping has.
func (t *Translator) Violations(slot uint32) uint32 {
	if v := t.snapshot.Load().violations; int(slot) < len(v)*chunkSlots {
		return v.at(slot).Load()
	}
	return 0
}

// Forgive makes a slot's violations 0, for the slot's next workload.
func (t *Translator) Forgive(slot uint32) {
	if v := t.snapshot.Load().violations; int(slot) < len(v)*chunkSlots {
		v.at(slot).Store(0)
	}
}
