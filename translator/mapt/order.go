package mapt

import "slices"

// order is rules by where their prefixes begin. No two overlap: the one that has an address
// is the last that begins at it or before.
type order struct {
	begins [Most]uint64 // behind the last rule, what no address is at or behind
	rules  [Most]uint8  // their indices
	half   int          // of the power of two that the rules fit in
}

func newOrder(all []rule, begin func(*rule) uint64) (o order) {
	sorted := make([]*rule, len(all))
	for i := range all {
		sorted[i] = &all[i]
	}
	slices.SortFunc(sorted, func(a, b *rule) int {
		if begin(a) < begin(b) {
			return -1
		}
		return 1
	})
	for i := range o.begins {
		o.begins[i] = ^uint64(0)
	}
	for i, r := range sorted {
		o.begins[i], o.rules[i] = begin(r), uint8(r.index)
	}
	for o.half = Most / 2; o.half > 0 && o.half >= len(all); {
		o.half /= 2
	}
	return o
}

// last is the index of the last rule that begins at an address or before; where none does,
// that of any. The steps are as many for each address, and none of them a branch.
func (o *order) last(a uint64) uint8 {
	at := 0
	for n := o.half; n > 0; n >>= 1 {
		next := at + n
		if o.begins[next&(Most-1)] <= a {
			at = next
		}
	}
	return o.rules[at&(Most-1)]
}
