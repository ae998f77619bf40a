package route

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// Addresses knows the addresses of this host's interfaces. It reads them when
// it is asked, and costs nothing while it is not.
type Addresses struct {
	mu    sync.Mutex
	read  time.Time
	took  time.Duration // that
	known map[netip.Addr]bool
}

// How old may be what is known: of an address that the host has, and of one
// that it does not have, since strangers may ask as often as they like.
const addressesFresh, addressesAgain = 10 * time.Second, time.Second

// Has reports whether one of the host's interfaces has the address.
func (h *Addresses) Has(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	age := time.Since(h.read)
	known := h.known[a]
	if known && age < addressesFresh || !known && age < max(addressesAgain, 50*h.took) {
		return known
	}
	h.read = time.Now()
	all, err := net.InterfaceAddrs()
	h.took = time.Since(h.read)
	if err != nil {
		return h.known[a]
	}
	h.known = make(map[netip.Addr]bool, len(all))
	for _, one := range all {
		if p, err := netip.ParsePrefix(one.String()); err == nil {
			h.known[p.Addr()] = true
		}
	}
	return h.known[a]
}
