package shed

import (
	"maps"
	"net/netip"

	"github.com/natless/natless/translator/mapping"
)

// Priority says who gives way first.
type Priority uint8

// The priorities, by what each may bring of the level.
const (
	Normal   Priority = iota
	Batch             // a quarter
	Critical          // four times as much
)

var weights = [...]float64{Normal: 1, Batch: 0.25, Critical: 4}

// Caps are what one way of a workload may bring at any time, each a second; 0: as much as
// it likes.
type Caps struct {
	Packets     uint64 // superpackets counting as one
	Bits        uint64 // of IP packets as they come
	Connections uint64 // TCP, by the segments that open one
}

// longest is how long a superpacket can be.
const longest = 1<<16 + 100

// Wish is what an operator wants of a workload. The zero value is nothing in particular.
type Wish struct {
	Priority
	Caps [NumWays]Caps
}

// Wish has the workload with a mapping's IPv6 prefix be as an operator wants. Any
// goroutine may call it, also before there is such a mapping.
func (s *Shed) Wish(p netip.Prefix, w Wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wishes[p] == w {
		return
	}
	if w == (Wish{}) {
		delete(s.wishes, p)
	} else {
		s.wishes[p] = w
	}
	s.wish()
}

// wish has it followed at once; the caller holds mu.
func (s *Shed) wish() {
	s.wished = true
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Wishes has all workloads be as an operator wants, and nobody else.
func (s *Shed) Wishes(all map[netip.Prefix]Wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if maps.Equal(s.wishes, all) {
		return
	}
	if s.wishes = all; all == nil {
		s.wishes = map[netip.Prefix]Wish{}
	}
	s.wish()
}

// weight is that of a workload's priority.
func (s *Shed) weight(slot uint32) float64 {
	if !s.weighted || slot == 0 {
		return 1
	}
	e := s.config.Table().At(slot)
	if e == nil {
		return 1
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return weights[s.wishes[e.IPv6()].Priority]
}

// follow follows what operators want, and where workloads are.
func (s *Shed) follow() {
	table := s.config.Table()
	if table != s.table {
		s.know(table)
	}
	s.mu.Lock()
	wished := s.wished || len(s.wishes) > 0 && table != s.table
	s.wished = false
	if s.table = table; !wished {
		s.mu.Unlock()
		return
	}
	want := map[key]Caps{}
	s.weighted = false
	for p, w := range s.wishes {
		s.weighted = s.weighted || w.Priority != Normal
		if e := table.Get(p); e != nil {
			for way, c := range w.Caps {
				if c != (Caps{}) {
					want[key{e.Slot(), Way(way)}] = c
				}
			}
		}
	}
	s.mu.Unlock()
	s.cap(table, want)
}

// key is one way of a workload.
type key struct {
	slot uint32
	way  Way
}

// cap has these and no others be limited by an operator.
func (s *Shed) cap(table *mapping.Table, want map[key]Caps) {
	s.refresh() // whose mapping is another one now
	for _, l := range s.limited {
		l.caps, l.capped = want[key{l.slot, l.way}]
		delete(want, key{l.slot, l.way})
	}
	for k, c := range want {
		if len(s.limited) == most {
			s.config.Log.Error("not all limits of workloads can be held", "room", most)
			break
		}
		s.limited = append(s.limited, s.admit(&limited{slot: k.slot, way: k.way, caps: c, capped: true}))
	}
	s.refresh()
	s.publish()
	if s.filter != nil {
		s.complain(s.filter.cap(s.anyCapped()))
	}
}

func (s *Shed) anyCapped() bool {
	for _, l := range s.limited {
		if l.capped {
			return true
		}
	}
	return false
}

// same says that an entry is a mapping.
func same(e *mapping.Entry, m *mapping.Mapping) bool {
	have := e.Mapping()
	return have.IPv6 == m.IPv6 && have.IPv4 == m.IPv4 && have.Inside == m.Inside && have.Ports.Equal(m.Ports)
}
