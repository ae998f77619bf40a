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
	known map[netip.Addr]bool
}

const (
	addressesFresh = 10 * time.Second // an address that the host has
	addressesAgain = time.Second      // one that it does not have: strangers may ask as often as they like
)

// Has says whether one of the host's interfaces has the address.
func (h *Addresses) Has(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	age := time.Since(h.read)
	if known := h.known[a]; known && age < addressesFresh || !known && age < addressesAgain {
		return known
	}
	h.read = time.Now()
	all, err := net.InterfaceAddrs()
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
