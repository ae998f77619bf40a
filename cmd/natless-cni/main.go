//go:build linux

// Command natless-cni is the CNI plugin (spec 0.4.0 to 1.1.0): chained behind
// whatever gave a container its IPv6 address, it asks natlessd for a share of
// IPv4 and fits the container's kernel to it. It starts for every container,
// so nothing that is slow to start (gVisor, Prometheus, bbolt) may enter here.
package main

import (
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	skel.PluginMainFuncs(
		skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.PluginSupports("0.4.0", "1.0.0", "1.1.0"),
		"CNI plugin natless-cni "+buildVersion()+": an IPv4 address and ports for an IPv6-only container.\n"+
			`Put {"type": "natless-cni"} behind the plugin that gives IPv6 in the network's plugin list.`)
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
