package registry

import (
	"net/netip"

	"github.com/natless/natless/translator/ports"
)

const maxPorts = ports.Count

// size is how many ports a set has; an empty one is a whole address.
func size(s ports.Set) int {
	if s.IsZero() {
		return maxPorts
	}
	return s.Size()
}

// singles is the set of single ports.
func singles(list []uint16) ports.Set {
	ranges := make([]ports.Range, len(list))
	for i, port := range list {
		ranges[i] = ports.Single(port)
	}
	return ports.Of(ranges...)
}

// address is the book-keeping of one IPv4 address.
type address struct {
	addr     netip.Addr
	taken    ports.Builder // assigned or cooling down
	whole    bool          // all of it is
	pool     *pool         // nil: in none any more
	assigned int           // ports
	cooling  int           // ports
	fit      int           // a run of more ports than this is known not to be free
	owners   []*held
	barred   string // why nothing of it is assigned; "": it is
}

var empty ports.Bitmap

// used is how many ports somebody has, or had a moment ago.
func (a *address) used() int { return a.assigned + a.cooling }

// free says whether all ports of the set are free; empty: the whole address.
func (a *address) free(s ports.Set) bool {
	if a.whole || s.IsZero() {
		return !a.whole && a.used() == 0
	}
	return !a.taken.Overlaps(s)
}

// freeOfHost says whether the host uses no port of the set.
func (a *address) freeOfHost(s ports.Set) bool {
	host := a.inUse()
	return host == nil || !s.IsZero() && !host.Overlaps(s)
}

func (a *address) take(s ports.Set) {
	if s.IsZero() {
		a.whole = true
		return
	}
	a.taken.AddSet(s)
}

// give makes the ports of the set free. Call it after the counts were lowered.
func (a *address) give(s ports.Set) {
	a.fit = maxPorts
	if a.pool != nil {
		a.pool.least = min(a.pool.least, a.used())
	}
	if s.IsZero() {
		a.whole = false
		return
	}
	a.taken.RemoveSet(s)
	if a.used() == 0 {
		a.taken = ports.Builder{} // with the room that it had
	}
}

// find looks for a run of the size and the single ports besides it.
func (a *address) find(p *pool, size int, extra []uint16) (set ports.Set, ok bool) {
	if a.barred != "" {
		return set, false
	}
	if p.Whole {
		return set, a.free(set)
	}
	if a.whole || size > a.fit {
		return set, false
	}
	taken, host := a.taken.Bitmap(), a.inUse()
	if host != nil {
		taken.AddBitmap(host)
	}
	set = singles(extra)
	if taken.Overlaps(set) || p.never.Overlaps(set) {
		return ports.Set{}, false
	}
	taken.AddSet(set) // they must not be in the run
	run, ok := taken.FreeBlock(&p.closed, size)
	if !ok {
		if len(extra) == 0 && host == nil { // the host gives ports back without a word
			a.fit = size / 2
		}
		return ports.Set{}, false
	}
	return set.Union(ports.Of(run)), true
}
