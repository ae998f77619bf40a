package registry

import (
	"net/netip"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// glance is what the status tells of all assignments together. A new one is made with
// each change. Who looks at it takes no lock, so that nobody waits until a change is
// on disk, and no change waits for somebody who counts.
type glance struct {
	workloads int
	insiders  Insiders
	onBarred  map[netip.Addr]int
	outside   *strays
}

// Insiders counts the workloads that have their IPv4 inside.
type Insiders struct {
	All   int
	Stale int // whose address inside is not their own any more: the uplink's has changed
}

func (i *Insiders) count(a *Assignment, n int) {
	if a.inside == 0 {
		return
	}
	i.All += n
	if a.Inside() != a.Address {
		i.Stale += n
	}
}

// strays remembers what is assigned outside of the pools, until that changes. It is
// made when somebody asks, because that takes a look at every address.
type strays struct {
	mu     sync.Mutex
	known  bool
	shares []Share
}

func (s *strays) look(count func() []Share) []Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		s.shares, s.known = count(), true
	}
	return s.shares
}

// Unmap has what was read of the file no longer count as memory of this process. It is
// for now and then: a file that has grown is mapped anew.
func (r *Registry) Unmap() {
	_ = r.view(func(*bolt.Tx) error { unmapped(r.db); return nil }) // who cannot read has nothing mapped
}

// lock begins a change of the state.
func (r *Registry) lock() { r.mu.Lock() }

// unlock ends a change of the state, and shows it to those who glance.
func (r *Registry) unlock() {
	r.glance.Store(&glance{r.state.assignments.n, r.state.insiders, r.state.onBarred(r.barred), r.state.strays})
	r.mu.Unlock()
}

// Len is how many assignments there are.
func (r *Registry) Len() int { return r.glance.Load().workloads }

// Insiders counts the workloads that have their IPv4 inside.
func (r *Registry) Insiders() Insiders { return r.glance.Load().insiders }

// OnBarred says how many workloads have what they got on barred addresses before
// those were. Who shares the host's own address does not count, also where its pool
// is gone. Nobody changes the answer.
func (r *Registry) OnBarred() map[netip.Addr]int { return r.glance.Load().onBarred }

func (s *state) onBarred(barred map[netip.Addr]string) map[netip.Addr]int {
	var found map[netip.Addr]int
	for addr := range barred {
		if a := s.addresses[addr]; a != nil && len(a.owners) > 0 && (a.whole || a.pool != nil && !a.pool.Uplink) {
			if found == nil {
				found = map[netip.Addr]int{}
			}
			found[addr] = len(a.owners)
		}
	}
	return found
}

// Outside gives what is assigned and the pools do not have any more: addresses
// of no pool, and ports of the host's own address that its pool has lost. Their
// workloads keep them until they give them back, so who makes the host's routes
// and rules of the pools has to make some of these, too. Nobody changes the answer.
func (r *Registry) Outside() []Share {
	return r.glance.Load().outside.look(func() []Share {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.state.outside(func(a netip.Addr) *pool { return r.state.addresses[a].pool })
	})
}

// stray notes that a share comes or goes, if it is outside of the pools.
func (s *state) stray(a *address, o *Assignment) {
	if _, out := a.outsideOf(a.pool, o); out {
		s.strays = new(strays)
	}
}
