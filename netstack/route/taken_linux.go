package route

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hops are the next hops of IPv4 routes. Reading them is reading all routes, which
// a router has many of: it is done again only when there is a new one.
type hops struct {
	stale atomic.Bool
	known []gateway
}

// hopTries is how often a dump of all routes is tried at a time.
const hopTries = 2

// readTaken finds what others hold on the host's links.
func (k *linuxKernel) readTaken(names map[int]string, addrs4, addrs6 []netlink.Addr, o *observed) error {
	var addrs []linkAddr
	for _, a := range addrs4 {
		if names[a.LinkIndex] != k.device && !a.IP.IsLoopback() {
			addrs = append(addrs, linkAddrOf(names[a.LinkIndex], a))
		}
	}
	for _, a := range addrs6 {
		if names[a.LinkIndex] != k.device && a.Scope == unix.RT_SCOPE_UNIVERSE {
			addrs = append(addrs, linkAddr{iface: names[a.LinkIndex], local: fromIPNet(a.IPNet).Addr()})
		}
	}
	if k.hops.stale.Swap(false) {
		whole, err := k.readHops(names)
		if !whole {
			k.hops.stale.Store(true)
		}
		if err != nil {
			return err
		}
	}
	o.taken, o.held = takenBy(addrs, k.hops.known), heldBy(addrs, k.hops.known)
	o.gateways = map[netip.Addr]bool{}
	for _, g := range k.hops.known {
		o.gateways[g.addr] = true
	}
	return nil
}

func linkAddrOf(iface string, a netlink.Addr) linkAddr {
	own := fromIPNet(a.IPNet)
	l := linkAddr{iface: iface, local: own.Addr(), subnet: own}
	if a.Peer != nil {
		l.subnet = fromIPNet(a.Peer)
		l.peer = l.subnet.Addr()
	}
	if b, ok := netip.AddrFromSlice(a.Broadcast); ok {
		l.broadcast = b.Unmap()
	}
	return l
}

// readHops reports whether it has read all. Routes that change all the time may keep
// it from that: then what was known stays, and what was found comes to it.
func (k *linuxKernel) readHops(names map[int]string) (whole bool, err error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	seen := map[gateway]bool{}
	var found []gateway
	for range hopTries {
		clear(seen)
		found = nil
		note := func(a netip.Addr, link int) {
			if g := (gateway{a, names[link]}); a.IsValid() && !seen[g] {
				seen[g] = true
				found = append(found, g)
			}
		}
		err = k.dump.RouteListFilteredIter(unix.AF_INET, filter, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if a, ok := netip.AddrFromSlice(r.Gw); ok {
				note(a.Unmap(), r.LinkIndex)
			}
			for _, hop := range r.MultiPath {
				if a, ok := netip.AddrFromSlice(hop.Gw); ok {
					note(a.Unmap(), hop.LinkIndex)
				}
			}
			return true
		})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	whole = err == nil
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("list gateways: %w", err)
	}
	if !whole {
		for _, g := range k.hops.known {
			if !seen[g] {
				found = append(found, g)
			}
		}
	}
	k.hops.known = found
	return whole, nil
}

// ReadTaken reads it from this thread's network namespace; device is the
// translator's own.
func ReadTaken(device string) (Taken, error) {
	k, err := openKernel(device, "")
	if err != nil {
		return nil, err
	}
	defer k.close()
	o := &observed{have: state{}}
	if err := k.readLinks(Desired{}, o); err != nil {
		return nil, err
	}
	return o.taken, nil
}
