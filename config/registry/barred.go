package registry

import (
	"maps"
	"net/netip"
)

// Bar has the registry assign nothing on these addresses, each for a reason, from
// now on: others hold them. Who has such an address keeps it. The host's own
// address in its pool is not meant.
func (r *Registry) Bar(addrs map[netip.Addr]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.barred = maps.Clone(addrs)
	r.state.bar(r.barred)
}

func (s *state) bar(addrs map[netip.Addr]string) {
	for _, p := range s.pools {
		for _, a := range p.addresses {
			a.barred = ""
			if !p.Uplink {
				a.barred = addrs[a.addr]
			}
		}
	}
}

// OnBarred says how many workloads have what they got on barred addresses before
// those were. Who shares the host's own address does not count, also where its pool
// is gone.
func (r *Registry) OnBarred() map[netip.Addr]int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := map[netip.Addr]int{}
	for addr := range r.barred {
		if a := r.state.addresses[addr]; a != nil && len(a.owners) > 0 && (a.whole || a.pool != nil && !a.pool.Uplink) {
			found[addr] = len(a.owners)
		}
	}
	return found
}

// Alone says whether nobody else has a part of an assignment's address.
func (r *Registry) Alone(a *Assignment) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	addr := r.state.addresses[a.Address]
	return addr == nil || len(addr.owners) <= 1
}
