package registry

import (
	"slices"
	"sort"

	"github.com/natless/natless/translator/mapping"
)

// runs are ports as ranges: sorted, and never two that touch. Pools give out the
// lowest run that is free, so what an address gave is a few ranges as a rule,
// where a bitmap takes 8 KiB: 134 MB for the addresses of a million workloads.
type runs []mapping.PortRange

// search is the index of the first range that does not end before the port.
func (s runs) search(port int) int {
	return sort.Search(len(s), func(i int) bool { return int(s[i].Last) >= port })
}

// any says whether a port of the range is among them.
func (s runs) any(r mapping.PortRange) bool {
	i := s.search(int(r.First))
	return i < len(s) && s[i].First <= r.Last
}

// set adds the ports of the range.
func (s *runs) set(r mapping.PortRange) {
	i, j := s.search(int(r.First)-1), s.search(int(r.Last)+1)
	if j < len(*s) && int((*s)[j].First) <= int(r.Last)+1 {
		j++ // it is reached, or touched
	}
	if i < j {
		r.First, r.Last = min(r.First, (*s)[i].First), max(r.Last, (*s)[j-1].Last)
	}
	*s = slices.Replace(*s, i, j, r)
}

// clear takes the ports of the range away.
func (s *runs) clear(r mapping.PortRange) {
	i, j := s.search(int(r.First)), s.search(int(r.Last))
	if j < len(*s) && (*s)[j].First <= r.Last {
		j++
	}
	if i == j {
		return
	}
	var rest [2]mapping.PortRange
	keep := rest[:0]
	if first := (*s)[i].First; first < r.First {
		keep = append(keep, mapping.PortRange{First: first, Last: r.First - 1})
	}
	if last := (*s)[j-1].Last; last > r.Last {
		keep = append(keep, mapping.PortRange{First: r.Last + 1, Last: last})
	}
	*s = slices.Replace(*s, i, j, keep...)
}

// bitmap is the same ports as a bitmap, for those who look for a place.
func (s runs) bitmap() (b bitmap) {
	for _, r := range s {
		b.set(r)
	}
	return b
}
