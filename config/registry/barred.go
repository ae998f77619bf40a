package registry

import (
	"maps"
	"net/netip"
)

// Bar keeps the registry from assigning these addresses, which others hold, and says
// why for each. A workload that has one of them keeps it. Bar does not apply to the
// host's own address in its pool.
func (r *Registry) Bar(addrs map[netip.Addr]string) {
	r.lock()
	defer r.unlock()
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

// Alone says whether nobody else has a part of an assignment's address.
func (r *Registry) Alone(a *Assignment) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	addr := r.state.addresses[a.Address]
	return addr == nil || len(addr.owners) <= 1
}
