//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/cmd/internal/wiring"
	"github.com/natless/natless/config/api"
)

// wiringOf is what a container has inside by its assignment.
func wiringOf(w api.Workload, ifname string, gateway netip.Addr) wiring.Wiring {
	return wiring.Wiring{Interface: ifname, Address: w.Address, Ports: w.Ports, Gateway: gateway, Prefix: w.Prefix}
}

// placeInside gives the container its IPv4 address. It runs inside.
func placeInside(ifname string, w api.Workload, gateway netip.Addr) error {
	hop, err := wiring.NextHop(ifname)
	if err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("the container's IPv6 default route: %v", err), "")
	}
	if hop.IsValid() {
		gateway = hop
	}
	if !gateway.IsValid() {
		return types.NewError(codeInside, fmt.Sprintf("IPv4 inside takes the way of the container's IPv6 default route, and there is none "+
			"with a gateway by %s, nor did the plugin before name one", ifname),
			"give the network a default route (::/0) with a gateway, or: "+byPrefix)
	}
	err = wiringOf(w, ifname, gateway).Apply()
	if others := (*wiring.ForeignError)(nil); errors.As(err, &others) {
		return types.NewError(codeInside, "IPv4 inside is for containers whose network is IPv6-only: "+others.What,
			"take IPv4 out of the network's IPAM, or: "+byPrefix)
	}
	if err != nil {
		return types.NewError(codeInside, "give the container its IPv4 inside: "+err.Error(), byPrefix)
	}
	return nil
}

// takeOut removes what the container has inside at an interface, as far as it is
// there; w may be the zero Workload, of which nothing is known. It runs inside.
func takeOut(ifname string, w api.Workload) {
	what := wiring.Wiring{Interface: ifname}
	if w.Inside != nil {
		what.Address = w.Inside.Address
	}
	_ = what.Remove()
}

// alone says that a container with IPv4 inside has no other share: its kernel has one
// IPv4 default route, and one way to the prefix.
func alone(others []api.Workload, w api.Workload) error {
	for _, o := range others {
		if w.Inside != nil || o.Inside != nil {
			return types.NewError(codeInside, fmt.Sprintf("a container has IPv4 inside once, by one interface, and this one has a share by %s "+
				"already", o.Interface),
				"put natless-cni into one of the container's networks only, or give both: "+byPrefix)
		}
	}
	return nil
}

// checkInside compares what the container has inside with what it was given. It runs
// inside.
func checkInside(w api.Workload) error {
	const again = "delete the container and add it again"
	if w.Stale() {
		return types.NewError(codeInsideChanged, fmt.Sprintf("the container has %s inside, and its address is %s now, since the uplink's has "+
			"changed: what it sends is refused", w.Inside.Address, w.Address), again)
	}
	hop, err := wiring.NextHop(w.Interface)
	if err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("the container's IPv6 default route: %v", err), "")
	}
	words, err := wiringOf(w, w.Interface, hop).Differences()
	switch {
	case err != nil:
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("what the container has inside: %v", err), "")
	case words != nil:
		return types.NewError(codeInsideChanged, "in the container "+strings.Join(words, ", "),
			again+"; does something in it change addresses, routes or rules?")
	}
	return nil
}
