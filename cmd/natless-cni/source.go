//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// A workload is one IPv6 address, and which one a container's kernel sends from
// is the kernel's choice (RFC 6724 section 5), where it has several: those of
// two ranges, a ULA and a global one, a temporary one. So the kernel is asked,
// and its choice mapped; what is not an address of the plugins' is not to be built
// on, and the kernel is told by a route to choose one that is.

const (
	// settle is how long duplicate address detection may take; RFC 4862 5.1 and
	// 5.4 make it 2 s at most, unless more probes are asked for.
	settle     = 4 * time.Second
	settleStep = 50 * time.Millisecond
)

// settled waits until the kernel sends from the addresses: until then it would
// choose others. It runs inside.
func settled(addrs []netip.Addr) error {
	for deadline := time.Now().Add(settle); ; time.Sleep(settleStep) {
		have, err := addresses()
		if err != nil {
			return err
		}
		waiting := netip.Addr{}
		for _, a := range have {
			switch {
			case !slices.Contains(addrs, a.addr):
			case a.flags&unix.IFA_F_DADFAILED != 0:
				return types.NewError(codeSource, fmt.Sprintf("somebody else on the container's link has its address %s", a.addr),
					"two containers, or hosts, were given the same address: look at the network's IPAM")
			case a.flags&unix.IFA_F_TENTATIVE != 0 && a.flags&unix.IFA_F_OPTIMISTIC == 0:
				waiting = a.addr
			}
		}
		if !waiting.IsValid() {
			return nil
		}
		if time.Now().After(deadline) {
			return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("the container's kernel still looks for a duplicate of %s after %v",
				waiting, settle),
				"is the container's link up?")
		}
	}
}

// address is one of the container's global IPv6 addresses.
type address struct {
	addr  netip.Addr
	flags int
}

// addresses lists those of all interfaces. It runs inside.
func addresses() ([]address, error) {
	all, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_INET6) })
	if err != nil {
		return nil, types.NewError(types.ErrIOFailure, fmt.Sprintf("list the container's addresses: %v", err), "")
	}
	var out []address
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		if ok && addr.Is6() && addr.IsGlobalUnicast() {
			out = append(out, address{addr, a.Flags})
		}
	}
	return out, nil
}

// sourceFor is the address that the kernel sends from to the prefix, invalid
// when it does not say. It runs inside.
func sourceFor(prefix netip.Prefix) (netip.Addr, *netlink.Route, error) {
	routes, err := netlink.RouteGet(prefix.Masked().Addr().AsSlice())
	if err != nil {
		return netip.Addr{}, nil, err
	}
	if len(routes) == 0 {
		return netip.Addr{}, nil, unix.ENETUNREACH
	}
	a, _ := netip.AddrFromSlice(routes[0].Src)
	return a, &routes[0], nil
}

// chooseSource gives the address of the container that is to be mapped: which
// of its own the kernel sends from. Where that is none of them, or may not stay
// so, it is made so by a route. theirs are those that other attachments of the
// container have mapped: the kernel may choose one of them. It runs inside, when
// there is a route to the prefix.
func chooseSource(prefix netip.Prefix, ifname string, gateway netip.Addr, own, theirs []netip.Addr) (netip.Addr, error) {
	src, route, err := sourceFor(prefix)
	if err != nil {
		return own[0], types.NewError(codeUnreachable, fmt.Sprintf("no route to %s in the container: %v", prefix, err), "")
	}
	if slices.Contains(theirs, src) {
		return own[0], nil
	}
	have, err := addresses()
	if err != nil {
		return own[0], err
	}
	chosen := slices.Contains(own, src)
	if chosen && !wavers(have, own) || len(have) == 0 {
		return pick(src, own), nil
	}
	want := pick(src, own)
	if err := pin(prefix, ifname, gateway, want, route); err != nil {
		return want, types.NewError(codeSource, fmt.Sprintf("the container's kernel sends from %s, which is not one of %v; route to "+
			"%s from %s: %v", src, own, prefix, want, err),
			"give the container one global IPv6 address, or a gateway on "+ifname)
	}
	if src, _, err = sourceFor(prefix); err != nil || src != want {
		return want, types.NewError(codeSource, fmt.Sprintf("the container's kernel sends from %s, which is not one of %v, in spite "+
			"of a route from %s", src, own, want),
			"give the container one global IPv6 address")
	}
	return want, nil
}

func pick(src netip.Addr, own []netip.Addr) netip.Addr {
	if slices.Contains(own, src) {
		return src
	}
	return own[0]
}

// wavers reports whether the kernel may choose another address later: one that
// comes, is renewed and goes with router advertisements.
func wavers(have []address, own []netip.Addr) bool {
	return slices.ContainsFunc(have, func(a address) bool {
		return !slices.Contains(own, a.addr) && a.flags&unix.IFA_F_PERMANENT == 0
	})
}

// pin makes the route to the prefix name its source. It goes the way of the
// route that there is when that leaves by the same interface.
func pin(prefix netip.Prefix, ifname string, gateway, src netip.Addr, now *netlink.Route) error {
	route, err := prefixRoute(prefix, ifname, gateway)
	if err != nil {
		return err
	}
	if now.LinkIndex == route.LinkIndex {
		route.Gw, route.Flags = now.Gw, 0
		if now.Gw != nil {
			route.Flags = int(netlink.FLAG_ONLINK)
		}
	} else if !gateway.IsValid() {
		return fmt.Errorf("the way there leaves by another interface, and no gateway is known on %s", ifname)
	}
	route.Src = src.AsSlice()
	return netlink.RouteReplace(route)
}
