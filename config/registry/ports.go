package registry

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/mapping"
)

const maxPorts = 65536

// bitmap has a bit for each port.
type bitmap [maxPorts / 64]uint64

// words calls f with each word that the range touches and the bits of it.
func words(r mapping.PortRange, f func(i int, mask uint64)) {
	first, last := int(r.First), int(r.Last)
	for i := first / 64; i <= last/64; i++ {
		mask := ^uint64(0)
		if i == first/64 {
			mask &= ^uint64(0) << (first % 64)
		}
		if i == last/64 {
			mask &= ^uint64(0) >> (63 - last%64)
		}
		f(i, mask)
	}
}

func (b *bitmap) set(r mapping.PortRange) {
	words(r, func(i int, mask uint64) { b[i] |= mask })
}

func (b *bitmap) clear(r mapping.PortRange) {
	words(r, func(i int, mask uint64) { b[i] &^= mask })
}

// any says whether a port of the range is set.
func (b *bitmap) any(r mapping.PortRange) bool {
	found := false
	words(r, func(i int, mask uint64) { found = found || b[i]&mask != 0 })
	return found
}

func (b *bitmap) count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// run finds the lowest run of size ports, aligned to size, that is set in
// neither bitmap. size is a power of two.
func (b *bitmap) run(closed *bitmap, size int) (mapping.PortRange, bool) {
	if size >= 64 {
		return b.runOfWords(closed, size/64)
	}
	// A bit of starts says that a port is a multiple of size.
	starts := uint64(1)
	for n := size; n < 64; n *= 2 {
		starts |= starts << n
	}
	for i := range b {
		free := ^(b[i] | closed[i])
		for n := 1; n < size; n *= 2 {
			free &= free >> n // now runs of 2n begin at each bit that is set
		}
		if free &= starts; free != 0 {
			first := i*64 + bits.TrailingZeros64(free)
			return mapping.PortRange{First: uint16(first), Last: uint16(first + size - 1)}, true
		}
	}
	return mapping.PortRange{}, false
}

// runs is how many runs of size ports, aligned to size, are set in neither
// bitmap. size is a power of two.
func (b *bitmap) runs(closed *bitmap, size int) (n int) {
	if size < 64 {
		starts := uint64(1)
		for k := size; k < 64; k *= 2 {
			starts |= starts << k
		}
		for i := range b {
			free := ^(b[i] | closed[i])
			for k := 1; k < size; k *= 2 {
				free &= free >> k
			}
			n += bits.OnesCount64(free & starts)
		}
		return n
	}
	each := size / 64
	for i := 0; i+each <= len(b); i += each {
		used := uint64(0)
		for j := i; j < i+each; j++ {
			used |= b[j] | closed[j]
		}
		if used == 0 {
			n++
		}
	}
	return n
}

func (b *bitmap) runOfWords(closed *bitmap, n int) (mapping.PortRange, bool) {
next:
	for i := 0; i+n <= len(b); i += n {
		for j := i; j < i+n; j++ {
			if b[j]|closed[j] != 0 {
				continue next
			}
		}
		return mapping.PortRange{First: uint16(i * 64), Last: uint16((i+n)*64 - 1)}, true
	}
	return mapping.PortRange{}, false
}

// size is how many ports a set has; an empty one is a whole address.
func size(s mapping.PortSet) int {
	if len(s) == 0 {
		return maxPorts
	}
	n := 0
	for _, r := range s {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

// join makes a set of a run and single ports that are not in it: sorted,
// neighbours as one range.
func join(run mapping.PortRange, extra []uint16) mapping.PortSet {
	all := mapping.PortSet{run}
	for _, p := range extra {
		all = append(all, mapping.PortRange{First: p, Last: p})
	}
	slices.SortFunc(all, func(a, b mapping.PortRange) int { return int(a.First) - int(b.First) })
	joined := all[:1]
	for _, r := range all[1:] {
		if last := &joined[len(joined)-1]; int(last.Last)+1 == int(r.First) {
			last.Last = r.Last
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}

// address is the book-keeping of one IPv4 address.
type address struct {
	addr     netip.Addr
	taken    runs  // assigned or cooling down
	whole    bool  // all of it is
	pool     *pool // nil: in none any more
	assigned int   // ports
	cooling  int   // ports
	fit      int   // a run of more ports than this is known not to be free
	owners   []*Assignment
	barred   string // why nothing of it is assigned; "": it is
}

var empty bitmap

// used is how many ports somebody has, or had a moment ago.
func (a *address) used() int { return a.assigned + a.cooling }

// free says whether all ports of the set are free; empty: the whole address.
func (a *address) free(s mapping.PortSet) bool {
	if a.whole || len(s) == 0 {
		return !a.whole && a.used() == 0
	}
	return !slices.ContainsFunc(s, a.taken.any)
}

// freeOfHost says whether the host uses no port of the set.
func (a *address) freeOfHost(s mapping.PortSet) bool {
	host := a.inUse()
	return host == nil || len(s) > 0 && !slices.ContainsFunc(s, host.any)
}

func (a *address) take(s mapping.PortSet) {
	if len(s) == 0 {
		a.whole = true
		return
	}
	for _, r := range s {
		a.taken.set(r)
	}
}

// give makes the ports of the set free. Call it after the counts were lowered.
func (a *address) give(s mapping.PortSet) {
	a.fit = maxPorts
	if a.pool != nil {
		a.pool.least = min(a.pool.least, a.used())
	}
	if len(s) == 0 {
		a.whole = false
		return
	}
	for _, r := range s {
		a.taken.clear(r)
	}
	if a.used() == 0 {
		a.taken = nil
	}
}

// find looks for a run of the size and the single ports besides it.
func (a *address) find(p *pool, size int, extra []uint16) (mapping.PortSet, bool) {
	if a.barred != "" {
		return nil, false
	}
	if p.Whole {
		return nil, a.free(nil)
	}
	if a.whole || size > a.fit {
		return nil, false
	}
	taken, host := a.taken.bitmap(), a.inUse()
	if host != nil {
		for i, w := range host {
			taken[i] |= w
		}
	}
	for _, port := range extra {
		one := mapping.PortRange{First: port, Last: port}
		if taken.any(one) || p.never.any(one) {
			return nil, false
		}
	}
	for _, port := range extra { // they must not be in the run
		taken.set(mapping.PortRange{First: port, Last: port})
	}
	run, ok := taken.run(&p.closed, size)
	if !ok {
		if len(extra) == 0 && host == nil { // the host gives ports back without a word
			a.fit = size / 2
		}
		return nil, false
	}
	return join(run, extra), true
}
