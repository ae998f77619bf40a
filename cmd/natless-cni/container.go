//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	cnins "github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// routeProtocol marks routes of ours (rtm_protocol), as the daemon's.
const routeProtocol = 110

// kernelDefaults are a new namespace's values.
var kernelDefaults = map[string]string{portlimits.Range: "32768\t60999", portlimits.Reserved: "", portlimits.TimeWaitReuse: "2"}

// foreign says that path is a network namespace other than the plugin's own:
// a container on the host's network must not make the host keep to its ports.
func foreign(path string) error {
	if gone(path) {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("CNI_NETNS: %s is not a network namespace", path), "")
	}
	own, err := cnins.CheckNetNS(path)
	if err != nil {
		return err
	}
	if own {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the same network namespace as the plugin's", "")
	}
	return nil
}

// enter runs f inside the container's namespace.
func enter(path string, f func() error) error {
	if err := foreign(path); err != nil {
		return err
	}
	var inside error
	err := ns.WithNetNSPath(path, func(ns.NetNS) error {
		inside = f()
		return nil
	})
	if err != nil {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("network namespace %s: %v", path, err), "")
	}
	return inside
}

// gone says that there is no namespace to be entered any more.
func gone(path string) bool {
	if path == "" {
		return true
	}
	var notExist ns.NSPathNotExistErr
	var notNS ns.NSPathNotNSErr
	handle, err := ns.GetNS(path)
	if err == nil {
		handle.Close()
		return false
	}
	return errors.As(err, &notExist) || errors.As(err, &notNS) || errors.Is(err, fs.ErrNotExist)
}

func sysctlPath(name string) string { return "/proc/sys/net/ipv4/" + name }

func getSysctl(name string) (string, error) {
	b, err := os.ReadFile(sysctlPath(name))
	return strings.TrimSpace(string(b)), err
}

func setSysctl(name, value string) error {
	// "\n" instead of nothing: an empty write would be no write at all.
	err := os.WriteFile(sysctlPath(name), []byte(value+"\n"), 0)
	if err != nil {
		return types.NewError(codeSysctl, fmt.Sprintf("set net.ipv4.%s to %q in the container: %v", name, value, err), "")
	}
	return nil
}

// reach makes sure that the container has a route to the prefix, by way of the
// gateway if it must. Runs inside.
func reach(prefix netip.Prefix, ifname string, gateway netip.Addr) error {
	if !prefix.IsValid() {
		return nil
	}
	if _, _, err := sourceFor(prefix); err == nil {
		return nil
	}
	takeOut(ifname, api.Workload{}) // what an ADD that asked for something else has left there
	if _, _, err := sourceFor(prefix); err == nil {
		return nil
	}
	if !gateway.IsValid() {
		return types.NewError(codeUnreachable, fmt.Sprintf("no route to %s in the container, and the plugin before named no IPv6 gateway",
			prefix),
			"give the network a default route (::/0) or a gateway")
	}
	route, err := prefixRoute(prefix, ifname, gateway)
	if err == nil {
		err = netlink.RouteReplace(route)
	}
	if err != nil {
		return types.NewError(codeUnreachable, fmt.Sprintf("route %s via %s in the container: %v", prefix, gateway, err), "")
	}
	return nil
}

func prefixRoute(prefix netip.Prefix, ifname string, gateway netip.Addr) (*netlink.Route, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return nil, err
	}
	dst := &net.IPNet{IP: prefix.Masked().Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Protocol: routeProtocol}
	if gateway.IsValid() {
		route.Gw = gateway.AsSlice()
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	return route, nil
}

// forget removes what ADD may have left inside, as far as it is still as ADD
// made it: the limits become those that are left, or the kernel's own. It runs
// inside; nothing there is worth an error.
func forget(limits, left ports.Set, prefix netip.Prefix, ifname string) {
	next := map[string]string{}
	for name, value := range kernelDefaults {
		next[name] = value
	}
	for _, s := range portlimits.For(left, false) {
		next[s.Name] = s.Value
	}
	for _, s := range portlimits.For(limits, false) {
		if now, err := getSysctl(s.Name); err == nil && now == s.Value {
			_ = setSysctl(s.Name, next[s.Name])
		}
	}
	if prefix.IsValid() {
		if route, err := prefixRoute(prefix, ifname, netip.Addr{}); err == nil {
			_ = netlink.RouteDel(route)
		}
	}
}
