package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/internal/nexthops"
	"github.com/natless/natless/netstack/internal/routes"
)

// host is what the kernel says of its interfaces, routes and addresses, at one
// moment.
type host struct {
	links     map[int]link
	byName    map[string]int
	hops      *nexthops.Table      // IPv6
	addresses map[int][]netip.Addr // IPv6
	defaults  map[int]bool         // where IPv4's default routes lead
}

type link struct {
	name   string
	bridge bool
	master int
}

// outward is where IPv4's default routes lead. To find them the kernel lists all routes, of
// which there may be a million: it is read again only when the kernel has told of a change.
type outward struct {
	watched atomic.Bool // somebody says what is stale
	stale   atomic.Bool
	list    *routes.List // of who surveys, as what follows
	links   map[int]bool
}

// look is what they are by now.
func (o *outward) look() (map[int]bool, error) {
	if !o.stale.Swap(false) && o.watched.Load() && o.links != nil {
		return o.links, nil
	}
	var links map[int]bool
	err := o.list.Each(unix.AF_INET, func() { links = map[int]bool{} }, func(r *routes.Route) bool {
		if r.Table == unix.RT_TABLE_MAIN && r.Destination.Bits() == 0 {
			for _, i := range r.Links() {
				links[i] = true
			}
		}
		return true
	})
	if err != nil {
		o.links = nil
		return nil, fmt.Errorf("IPv4 routes: %w", err)
	}
	o.links = links
	return links, nil
}

// survey asks the kernel for everything.
func survey(handle *netlink.Handle, out *outward) (*host, error) {
	h := &host{links: map[int]link{}, byName: map[string]int{}, addresses: map[int][]netip.Addr{}}
	links, err := dump.Whole(handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		h.addLink(l)
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return handle.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return nil, fmt.Errorf("IPv6 addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			h.addresses[a.LinkIndex] = append(h.addresses[a.LinkIndex], ip)
		}
	}
	if h.hops, err = nexthops.Read(handle); err != nil {
		return nil, err
	}
	h.defaults, err = out.look()
	return h, err
}

func (h *host) addLink(l netlink.Link) {
	a := l.Attrs()
	h.links[a.Index] = link{a.Name, l.Type() == "bridge", a.MasterIndex}
	h.byName[a.Name] = a.Index
}

// refresh looks at an interface that may be newer than the survey.
func (h *host) refresh(handle *netlink.Handle, name string) error {
	if name == "" {
		return nil
	}
	l, err := handle.LinkByName(name)
	if e := (netlink.LinkNotFoundError{}); errors.As(err, &e) {
		return nil // routes tell
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	h.addLink(l)
	return nil
}
