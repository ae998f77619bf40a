package ports

import "fmt"

// PSID is the port set of a MAP node (RFC 7597 section 5.1): offset is the number
// of offset bits, a there, and length the number of bits of the PSID, k there.
// With offset 0 it is one range; else it leaves out the ports below 2^(16−a).
func PSID(offset, length int, psid uint16) (Set, error) {
	switch {
	case offset < 0 || length < 0 || offset+length > 16:
		return Set{}, fmt.Errorf("offset bits %d and PSID length %d: together they must be 0 to 16 (RFC 7597 5.1)", offset, length)
	case int(psid) >= 1<<length:
		return Set{}, fmt.Errorf("PSID %d does not fit into %d bits", psid, length)
	}
	m := 16 - offset - length // the bits within a range; rule 1.3.map-t
	block := 0
	if offset > 0 {
		block = 1
	}
	ranges := make([]Range, 0, 1<<offset-block)
	for ; block < 1<<offset; block++ {
		start := block<<(16-offset) | int(psid)<<m
		ranges = append(ranges, Range{uint16(start), uint16(start + 1<<m - 1)})
	}
	return Disjoint(ranges)
}
