package guard

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
	"github.com/natless/natless/netstack/internal/nexthops"
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

// survey asks the kernel for everything.
func survey(handle *netlink.Handle) (*host, error) {
	h := &host{links: map[int]link{}, byName: map[string]int{},
		addresses: map[int][]netip.Addr{}, defaults: map[int]bool{}}
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
	return h, h.survey(handle)
}

func (h *host) survey(handle *netlink.Handle) error {
	var err error
	if h.hops, err = nexthops.Read(handle); err != nil {
		return err
	}
	main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	defaults, err := dump.Whole(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(netlink.FAMILY_V4, main, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return fmt.Errorf("IPv4 routes: %w", err)
	}
	for _, r := range defaults {
		h.defaults[r.LinkIndex] = true
		for _, n := range r.MultiPath {
			h.defaults[n.LinkIndex] = true
		}
	}
	return nil
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
