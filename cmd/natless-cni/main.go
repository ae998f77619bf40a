//go:build linux

// Command natless-cni is the CNI plugin (spec 0.4.0 to 1.1.0): chained behind
// whatever gave a container its IPv6 address, it asks natlessd for a share of
// IPv4 and fits the container's kernel to it. It starts for every container,
// so nothing that is slow to start (gVisor, Prometheus, bbolt) may enter here.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	cni "github.com/containernetworking/cni/pkg/version"

	"github.com/natless/natless/cmd/internal/version"
)

// about is what somebody reads who runs it by hand.
func about() string {
	return "CNI plugin natless-cni " + version.String() + ": an IPv4 address and ports for an IPv6-only container.\n" +
		`Put {"type": "natless-cni"} behind the plugin that gives IPv6 in the network's plugin list (natless cni install does).`
}

func main() {
	if len(os.Args) > 1 {
		os.Exit(byHand(os.Args[1:], os.Stdout, os.Stderr))
	}
	skel.PluginMainFuncs(
		skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		cni.PluginSupports("0.4.0", "1.0.0", "1.1.0"), about())
}

// byHand answers somebody at a shell: a container engine gives no arguments.
func byHand(args []string, stdout, stderr io.Writer) int {
	switch args[0] {
	case "--version", "-version", "version":
		fmt.Fprintln(stdout, "natless-cni", version.String())
	case "--help", "-help", "-h", "help":
		fmt.Fprintln(stdout, about())
	default:
		fmt.Fprintf(stderr, "natless-cni: %q: there is --version and --help; container engines run it, with CNI_COMMAND in its environment\n", args[0])
		return 2
	}
	return 0
}
