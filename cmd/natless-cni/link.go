//go:build linux

package main

import (
	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

// hostInterface is the host's end of the container's veth pair, when the plugin
// before named it; "" otherwise, and natlessd goes by the host's route. The
// kernel says which of the named interfaces it is: a bridge is among them, too.
func hostInterface(args *skel.CmdArgs, r *types100.Result) string {
	peer := 0
	err := enter(args.Netns, func() error {
		l, err := netlink.LinkByName(args.IfName)
		if err == nil && l.Type() == "veth" {
			peer = l.Attrs().ParentIndex
		}
		return err
	})
	if err != nil || peer == 0 {
		return ""
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" {
			continue
		}
		if l, err := netlink.LinkByName(i.Name); err == nil && l.Type() == "veth" && l.Attrs().Index == peer {
			return i.Name
		}
	}
	return ""
}
