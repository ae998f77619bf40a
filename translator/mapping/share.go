package mapping

import (
	"slices"

	"github.com/natless/natless/translator/ports"
)

// share says who owns which port of one IPv4 address. A port's block, of 256,
// names its owner where it has one owner or none; else it says from where on to
// search the runs.
type share struct {
	blocks [256]uint32 // slot, 0, or mixed with the index of the first run
	runs   []run       // sorted, disjoint
	epoch  uint64
}

// run is a range of ports and the slot of its owner.
type run struct {
	ports.Range
	slot uint32
}

const mixed = 1 << 31

// find is the slot of the mapping that owns port, or 0. It is small enough for
// the compiler to put it into its caller.
func (s *share) find(port uint16) uint32 {
	if slot := s.blocks[port>>8]; slot < mixed {
		return slot
	}
	return s.among(port)
}

// among is find where several share a block: the owner is, as a rule, the first
// or second of the block.
func (s *share) among(port uint16) uint32 {
	i := int(s.blocks[port>>8] &^ mixed)
	if s.runs[i].Last < port {
		if i++; i < len(s.runs) && s.runs[i].Last < port {
			i = s.search(port)
		}
	}
	if i < len(s.runs) && s.runs[i].First <= port {
		return s.runs[i].slot
	}
	return 0
}

// search is the index of the first run that does not end before port.
func (s *share) search(port uint16) int {
	lo, hi := 0, len(s.runs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s.runs[mid].Last < port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// overlap is the first run that holds a port of r, but for those of the slot gone.
func (s *share) overlap(r ports.Range, gone uint32) (run, bool) {
	for _, run := range s.runs[s.search(r.First):] {
		if run.First > r.Last {
			break
		}
		if run.slot != gone {
			return run, true
		}
	}
	return run{}, false
}

// clone is s for the edit with the given epoch.
func (s *share) clone(epoch uint64) *share {
	return &share{s.blocks, append(make([]run, 0, len(s.runs)+1), s.runs...), epoch}
}

// add gives the ports of set, which nobody owns, to slot.
func (s *share) add(set ports.Set, slot uint32) {
	for r := range set.Runs() {
		s.runs = slices.Insert(s.runs, s.search(r.First), run{r, slot})
		s.mark(r, 1)
	}
}

// remove takes the ports of set away from their owner.
func (s *share) remove(set ports.Set) {
	for r := range set.Runs() {
		i := s.search(r.First)
		s.runs = slices.Delete(s.runs, i, i+1)
		s.mark(r, -1)
	}
}

// mark brings the blocks that r touches up to date, and those behind it, whose
// runs have moved by one.
func (s *share) mark(r ports.Range, moved int) {
	for b := int(r.First >> 8); b <= int(r.Last>>8); b++ {
		s.blocks[b] = s.block(ports.Range{First: uint16(b << 8), Last: uint16(b<<8 | 255)})
	}
	for b := int(r.Last>>8) + 1; b < len(s.blocks); b++ {
		if s.blocks[b] >= mixed {
			s.blocks[b] += uint32(moved)
		}
	}
}

// block is what the block of the ports r says.
func (s *share) block(r ports.Range) uint32 {
	i := s.search(r.First)
	switch {
	case i == len(s.runs) || s.runs[i].First > r.Last:
		return 0
	case s.runs[i].First <= r.First && s.runs[i].Last >= r.Last:
		return s.runs[i].slot
	}
	return mixed | uint32(i)
}
