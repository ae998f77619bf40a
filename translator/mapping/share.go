package mapping

import (
	"slices"

	"github.com/natless/natless/translator/ports"
)

// share says who owns which port of one IPv4 address. A port's block, of 256, names
// its owner where it has one owner or none; else it says from where on to search the
// runs. The owners' entries stand here, too, so that none waits for an index.
type share struct {
	runs   []run   // sorted, disjoint
	owners []Entry // as the index for IPv6 has them
	epoch  uint64
	blocks [256]uint16 // an owner and one, 0, or mixed with the index of the first run
}

// run is a range of ports and who of the owners has it.
type run struct {
	ports.Range
	owner uint16
}

// mixed marks blocks of several owners, and those whose owner's number does not fit;
// with far, what is to be known of a block does not fit either.
const (
	mixed = 1 << 15
	far   = mixed - 1
)

// find is the entry of who owns port, or nil. It is small enough for the compiler to
// put it into its caller.
func (s *share) find(port uint16) *Entry {
	if n := s.blocks[port>>8] - 1; n < mixed-1 {
		return &s.owners[n]
	}
	return s.among(port)
}

// among is find where several share a block: the owner is, as a rule, the first
// or second of the block.
func (s *share) among(port uint16) *Entry {
	if s.blocks[port>>8] == 0 {
		return nil
	}
	i := int(s.blocks[port>>8] &^ mixed)
	if i == far {
		i = s.search(port)
	} else if s.runs[i].Last < port {
		if i++; i < len(s.runs) && s.runs[i].Last < port {
			i = s.search(port)
		}
	}
	if i < len(s.runs) && s.runs[i].First <= port {
		return &s.owners[s.runs[i].owner]
	}
	return nil
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
		if s.owners[run.owner].Slot() != gone {
			return run, true
		}
	}
	return run{}, false
}

// clone is s for the edit with the given epoch.
func (s *share) clone(epoch uint64) *share {
	return &share{append(make([]run, 0, len(s.runs)+1), s.runs...), append(make([]Entry, 0, len(s.owners)+1), s.owners...),
		epoch, s.blocks}
}

// add gives the ports of set, which nobody owns, to the mapping of e.
func (s *share) add(set ports.Set, e Entry) {
	owner := uint16(len(s.owners))
	s.owners = append(s.owners, e)
	for r := range set.Runs() {
		s.runs = slices.Insert(s.runs, s.search(r.First), run{r, owner})
		s.mark(r, 1)
	}
}

// remove takes the ports of set away from their owner, and him away. The last of the
// owners has his number from then on.
func (s *share) remove(set ports.Set) {
	owner := s.runs[s.search(set.Min())].owner
	for r := range set.Runs() {
		i := s.search(r.First)
		s.runs = slices.Delete(s.runs, i, i+1)
		s.mark(r, -1)
	}
	last := uint16(len(s.owners) - 1)
	s.owners[owner] = s.owners[last]
	s.owners = s.owners[:last]
	if owner == last {
		return
	}
	for i := range s.runs {
		if s.runs[i].owner == last {
			s.runs[i].owner = owner
			s.mark(s.runs[i].Range, 0)
		}
	}
}

// mark brings the blocks that r touches up to date, and those behind it, whose
// runs have moved.
func (s *share) mark(r ports.Range, moved int) {
	for b := int(r.First >> 8); b <= int(r.Last>>8); b++ {
		s.blocks[b] = s.block(ports.Range{First: uint16(b << 8), Last: uint16(b<<8 | 255)})
	}
	if moved == 0 {
		return
	}
	for b := int(r.Last>>8) + 1; b < len(s.blocks); b++ {
		if n := s.blocks[b]; n == mixed|far {
			s.blocks[b] = s.block(ports.Range{First: uint16(b << 8), Last: uint16(b<<8 | 255)})
		} else if n >= mixed {
			s.blocks[b] = mixed | uint16(int(n&^mixed)+moved)
		}
	}
}

// block is what the block of the ports r says.
func (s *share) block(r ports.Range) uint16 {
	i := s.search(r.First)
	switch {
	case i == len(s.runs) || s.runs[i].First > r.Last:
		return 0
	case s.runs[i].First <= r.First && s.runs[i].Last >= r.Last && s.runs[i].owner < mixed-1:
		return s.runs[i].owner + 1
	}
	return mixed | uint16(min(i, far))
}
