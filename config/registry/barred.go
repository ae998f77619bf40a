package registry

import (
	"maps"
	"net/netip"
)

// Bar has the registry assign nothing on these addresses, each for a reason, from
// now on: others hold them. Who has such an address keeps it. The host's own
// address in its pool is not meant.
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
