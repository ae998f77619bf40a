//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// siblings are the other attachments of the same container: they are in the
// same network namespace, whose kernel has one range of ports for all of them.
func siblings(ctx context.Context, client *api.Client, k api.Key) ([]api.Workload, error) {
	all, err := client.List(ctx, api.Filter{Container: k.ContainerID})
	if p := new(api.Problem); errors.As(err, &p) && p.Field == "container" { // natlessd is older than this plugin
		all, err = client.List(ctx, api.Filter{})
	}
	return slices.DeleteFunc(all, func(w api.Workload) bool {
		return w.ContainerID != k.ContainerID || w.Interface == k.Interface
	}), err
}

// shared are the other attachments of a workload's container, and the ports that
// all of them may send from.
func shared(ctx context.Context, client *api.Client, k api.Key, w api.Workload) ([]api.Workload, ports.Set, error) {
	others, err := siblings(ctx, client, k)
	if err != nil {
		return nil, ports.Set{}, problem(err)
	}
	if err := alone(others, w); err != nil {
		return nil, ports.Set{}, err
	}
	limits, err := limitsOf(append(others, w)...)
	return others, limits, err
}

// limitsOf are the ports that every one of the workloads may send from; none:
// no limit.
func limitsOf(all ...api.Workload) (ports.Set, error) {
	sets := make([]ports.Set, len(all))
	for i, w := range all {
		sets[i] = w.Ports
	}
	common, ok := portlimits.Common(sets...)
	if !ok {
		words := ""
		for _, w := range all {
			words += fmt.Sprintf(", %s has %s ports %s", w.Interface, w.Address, api.PortsText(w.Ports))
		}
		return ports.Set{}, types.NewError(codeNoCommonPorts,
			"the container's kernel has one range of ports for all its interfaces, and their shares have none in common"+words,
			"put natless-cni into one of the container's networks only, or take the shares from a pool with one more address, or "+
				"with whole_address")
	}
	return common, nil
}

// mapped are the addresses of the workloads that are mapped.
func mapped(all []api.Workload) (addrs []netip.Addr) {
	for _, w := range all {
		if len(w.Request.IPv6) > 0 {
			addrs = append(addrs, w.Request.IPv6[0])
		}
	}
	return addrs
}
