package mapping

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// PortRange is a run of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// Len is the number of ports in r.
func (r PortRange) Len() int { return int(r.Last) - int(r.First) + 1 }

// Contains says whether port lies in r. One comparison: the difference wraps.
func (r PortRange) Contains(port uint16) bool { return port-r.First <= r.Last-r.First }

// String is "1024-2047", or "8080" for a single port.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// PortSet is a list of sorted, disjoint ranges. An empty set means that the
// mapping owns its IPv4 addresses whole, ports and all.
type PortSet []PortRange

// ParsePorts reads "1024-2047,8080": ranges and single ports in any order, that
// must not overlap. The empty text is the empty set.
func ParsePorts(s string) (PortSet, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var set PortSet
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err := parsePort(first)
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", s, err)
		}
		b, err := parsePort(last)
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", s, err)
		}
		set = append(set, PortRange{a, b})
	}
	slices.SortFunc(set, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	set, err := set.normal()
	if err != nil {
		return nil, fmt.Errorf("ports %q: %w", s, err)
	}
	return set, nil
}

func parsePort(s string) (uint16, error) {
	s = strings.TrimSpace(s)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no port: give a number from 0 to 65535", s)
	}
	return uint16(n), nil
}

// MAPPorts is the port set of a MAP-T node (RFC 7597 5.1): a is the number of
// offset bits, k the length of the PSID in bits. With a = 0 it is one range;
// else it leaves out the ports below 2^(16−a).
func MAPPorts(a, k int, psid uint16) (PortSet, error) {
	switch {
	case a < 0 || k < 0 || a+k > 16:
		return nil, fmt.Errorf("offset bits %d and PSID length %d: together they must be 0 to 16 (RFC 7597 5.1)", a, k)
	case int(psid) >= 1<<k:
		return nil, fmt.Errorf("PSID %d does not fit into %d bits", psid, k)
	}
	m := 16 - a - k // rule 1.3.map-t
	first := 0
	if a > 0 {
		first = 1
	}
	set := make(PortSet, 0, 1<<a)
	for block := first; block < 1<<a; block++ {
		start := block<<(16-a) | int(psid)<<m
		set = append(set, PortRange{uint16(start), uint16(start + 1<<m - 1)})
	}
	return set.normal()
}

// String is what ParsePorts reads: "1024-2047,8080".
func (s PortSet) String() string {
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = r.String()
	}
	return strings.Join(parts, ",")
}

// MarshalText and UnmarshalText let a set stand as a string in JSON and YAML.
func (s PortSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParsePorts.
func (s *PortSet) UnmarshalText(text []byte) (err error) {
	*s, err = ParsePorts(string(text))
	return err
}

// Equal says whether s and o are the same ranges.
func (s PortSet) Equal(o PortSet) bool { return slices.Equal(s, o) }

// Len is the number of ports in s.
func (s PortSet) Len() int {
	n := 0
	for _, r := range s {
		n += r.Len()
	}
	return n
}

// Contains says whether port is in s; false for the empty set.
func (s PortSet) Contains(port uint16) bool {
	i := s.search(port)
	return i < len(s) && s[i].First <= port
}

// search is the index of the first range that does not end before port.
func (s PortSet) search(port uint16) int {
	lo, hi := 0, len(s)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s[mid].Last < port {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// normal checks that ranges are sorted and disjoint and joins those that touch.
// It copies s only where it has to change it.
func (s PortSet) normal() (PortSet, error) {
	joined := 0
	for i, r := range s {
		if r.First > r.Last {
			return s, fmt.Errorf("ports %v: the range runs backwards", r)
		}
		if i == 0 {
			continue
		}
		if r.First <= s[i-1].Last {
			return s, fmt.Errorf("ports %v and %v: ranges must be sorted and must not overlap", s[i-1], r)
		}
		if r.First == s[i-1].Last+1 {
			joined++
		}
	}
	if joined == 0 {
		return s, nil
	}
	n := make(PortSet, 0, len(s)-joined)
	for _, r := range s {
		if len(n) > 0 && n[len(n)-1].Last+1 == r.First {
			n[len(n)-1].Last = r.Last
		} else {
			n = append(n, r)
		}
	}
	return n, nil
}

// longest is the longest run of s, the first of several.
func (s PortSet) longest() PortRange {
	l := s[0]
	for _, r := range s[1:] {
		if r.Len() > l.Len() {
			l = r
		}
	}
	return l
}

// alignedBlock is the greatest power-of-two block inside r that starts at a
// multiple of its size: base | (x & mask) is in r whatever x.
func alignedBlock(r PortRange) (base, mask uint16) {
	size := 1 << (bits.Len(uint(r.Len())) - 1)
	for ; ; size >>= 1 {
		start := (int(r.First) + size - 1) &^ (size - 1)
		if start+size-1 <= int(r.Last) {
			return uint16(start), uint16(size - 1)
		}
	}
}

// cube widens the aligned block of the longest run by every bit that may take
// both values with all of base | (x & mask) still in s. It gives a MAP-T node
// with offset bits half of its ports instead of one short run.
func (s PortSet) cube() (base, mask uint16) {
	base, mask = alignedBlock(s.longest())
	for bit := mask + 1; bit != 0; bit <<= 1 {
		if s.containsCube((base^bit)&^mask, mask) {
			base &^= bit
			mask |= bit
		}
	}
	return base, mask
}

// containsCube says whether base | x is in s for every x within mask.
func (s PortSet) containsCube(base, mask uint16) bool {
	block := uint16(1)<<bits.TrailingZeros16(^mask) - 1 // the low bits that run on
	high := mask &^ block
	for x := uint16(0); ; x = (x - high) & high { // all subsets of high, in order
		first := base | x
		i := s.search(first)
		if i == len(s) || s[i].First > first || s[i].Last < first|block {
			return false
		}
		if x == high {
			return true
		}
	}
}
