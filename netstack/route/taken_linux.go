package route

import (
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
		if err := k.readHops(names); err != nil {
			k.hops.stale.Store(true)
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

func (k *linuxKernel) readHops(names map[int]string) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := retryDump(func() (found []gateway, err error) {
		seen := map[gateway]bool{}
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
		return found, err
	})
	if err != nil {
		return fmt.Errorf("list gateways: %w", err)
	}
	k.hops.known = routes
	return nil
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
