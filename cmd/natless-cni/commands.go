//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/natless/natless/cmd/internal/portlimits"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// add gets the container an assignment and fits its kernel to it. Whatever
// fails midway, everything before it is given back.
func add(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	result, err := c.previous()
	if err != nil {
		return err
	}
	if result == nil {
		return types.NewError(types.ErrInvalidNetworkConfig,
			"natless-cni needs a plugin before it in the list that gives the container IPv6, such as bridge or ptp", "")
	}
	if c.IPv4 == ipv4None {
		return types.PrintResult(result, c.CNIVersion)
	}
	ipv6, gateway := containerIPv6(result, args.IfName)
	if len(ipv6) == 0 {
		return types.NewError(codeNoIPv6, fmt.Sprintf("the plugin before gave %s no global IPv6 address", args.IfName),
			"add an IPv6 range to its IPAM")
	}
	if err := foreign(args.Netns); err != nil {
		return err
	}
	request, err := c.request(args, ipv6)
	if err != nil {
		return err
	}
	request.HostInterface = hostInterface(args, result)
	if err := assign(args, c, request, gateway); err != nil {
		return err
	}
	return types.PrintResult(result, c.CNIVersion)
}

// assign asks natlessd and fits the container to the answer.
func assign(args *skel.CmdArgs, c *pluginConfig, request api.Request, gateway netip.Addr) (err error) {
	ctx, cancel := within(patience)
	defer cancel()
	client := api.NewClient(c.Socket)
	if err := api.WithdrawRelease(c.Socket, key(args)); err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	w, err := put(ctx, client, key(args), &request)
	if err != nil {
		if errors.Is(err, api.ErrUnavailable) { // an answer that was lost is an assignment all the same
			err = errors.Join(err, release(client, c.Socket, args))
		}
		return problem(err)
	}
	defer func() {
		if err != nil {
			err = withRelease(err, release(client, c.Socket, args))
		}
	}()
	others, limits, err := shared(ctx, client, key(args), w)
	if err != nil {
		return err
	}
	var source netip.Addr
	err = enter(args.Netns, func() (err error) {
		source, err = fit(args, c, w, request.IPv6, gateway, limits, mapped(others))
		return err
	})
	if err != nil || source == request.IPv6[0] {
		return err
	}
	// What the kernel sends from is what is mapped.
	i := slices.Index(request.IPv6, source)
	request.IPv6 = slices.Concat([]netip.Addr{source}, request.IPv6[:i], request.IPv6[i+1:])
	if _, err := put(ctx, client, key(args), &request); err != nil {
		_ = enter(args.Netns, func() error { forget(limits, ports.Set{}, w.Prefix, args.IfName); return nil })
		return problem(err)
	}
	return nil
}

func put(ctx context.Context, client *api.Client, k api.Key, request *api.Request) (api.Workload, error) {
	for {
		w, err := client.Put(ctx, k, *request)
		p := new(api.Problem)
		if !errors.As(err, &p) || p.Code != api.CodeInvalid {
			return w, err
		}
		switch { // natlessd is older than this plugin
		case p.Field == "host_interface" && request.HostInterface != "":
			request.HostInterface = ""
		case p.Field == "inside" && request.Inside == api.IPv4Inside:
			return w, &api.Problem{Code: api.CodeNoInside, Field: "inside",
				Detail: "it is older than this plugin, and has no IPv4 inside of containers: install both of the same version"}
		case p.Field == "inside" && request.Inside != "":
			request.Inside = "" // it has nothing but the prefix
		case strings.HasSuffix(p.Detail, "field of a request"): // as every natlessd says it
			return w, &api.Problem{Code: p.Code, Field: p.Field,
				Detail: "it is older than this plugin, and does not know this wish: install both of the same version"}
		default:
			return w, err
		}
	}
}

// withRelease keeps the code of what went wrong first.
func withRelease(err, releaseErr error) error {
	if e := new(types.Error); releaseErr != nil && errors.As(err, &e) {
		return types.NewError(e.Code, e.Msg, fmt.Sprintf("%s; and its assignment could not be given back: %v", e.Details, releaseErr))
	}
	return err
}

// fit runs inside the container, all or nothing: its kernel keeps to limits, has
// its IPv4 inside or a way to the prefix, and sends from the address that it gives.
func fit(
	args *skel.CmdArgs, c *pluginConfig, w api.Workload, own []netip.Addr, gateway netip.Addr, limits ports.Set, theirs []netip.Addr,
) (source netip.Addr, err error) {
	source = own[0]
	var done []portlimits.Sysctl
	defer func() {
		if err == nil {
			return
		}
		for _, s := range slices.Backward(done) {
			_ = setSysctl(s.Name, s.Value)
		}
		forget(ports.Set{}, ports.Set{}, w.Prefix, args.IfName)
	}()
	for _, s := range portlimits.For(limits, c.keepsTimeWait()) {
		before, err := getSysctl(s.Name)
		if err != nil {
			return source, types.NewError(codeSysctl, "read sysctl in the container: "+err.Error(), "")
		}
		if err := setSysctl(s.Name, s.Value); err != nil {
			return source, err
		}
		done = append(done, portlimits.Sysctl{Name: s.Name, Value: before})
	}
	if err := settled(own); err != nil {
		return source, err
	}
	if w.Inside != nil {
		return source, placeInside(args.IfName, w, gateway)
	}
	if err := reach(w.Prefix, args.IfName, gateway); err != nil || !w.Prefix.IsValid() {
		return source, err
	}
	return chooseSource(w.Prefix, args.IfName, gateway, own, theirs)
}

// release gives an assignment back, now or when natlessd is back.
func release(client *api.Client, socket string, args *skel.CmdArgs) error {
	ctx, cancel := within(lastAttempt)
	defer cancel()
	err := client.Delete(ctx, key(args))
	switch {
	case err == nil, errors.Is(err, api.ErrNotFound), errors.Is(err, api.ErrInvalid):
		return nil // a key that natlessd refuses never had an assignment
	case errors.Is(err, api.ErrForbidden):
		return problem(err)
	}
	return api.RecordRelease(socket, key(args), time.Now())
}

// del never fails for what is not there: no namespace, no previous result, no
// assignment, no daemon.
func del(args *skel.CmdArgs) error {
	c, err := parseBase(args)
	if err != nil {
		return err
	}
	client := api.NewClient(c.Socket)
	if !gone(args.Netns) {
		ctx, cancel := within(patience)
		defer cancel()
		w, err := client.Get(ctx, key(args))
		_ = enter(args.Netns, func() error { takeOut(args.IfName, w); return nil }) // which needs no daemon
		if err == nil {
			others, _ := siblings(ctx, client, key(args))
			limits, _ := limitsOf(append(others, w)...)
			left, _ := limitsOf(others...)
			_ = enter(args.Netns, func() error { forget(limits, left, w.Prefix, args.IfName); return nil })
		}
	}
	if err := release(client, c.Socket, args); err != nil {
		return types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	return nil
}

// check compares the assignment with the container as it is now.
func check(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	result, err := c.previous()
	if err != nil {
		return err
	}
	if result == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult", "")
	}
	if c.IPv4 == ipv4None {
		return nil
	}
	ctx, cancel := within(patience)
	defer cancel()
	client := api.NewClient(c.Socket)
	w, err := client.Get(ctx, key(args))
	if err != nil {
		return problem(err)
	}
	ipv6, _ := containerIPv6(result, args.IfName)
	if len(ipv6) == 0 || len(w.Request.IPv6) == 0 || !slices.Contains(ipv6, w.Request.IPv6[0]) {
		return types.NewError(codeOtherAddress, fmt.Sprintf("natlessd has %v for this container, prevResult %v", w.Request.IPv6, ipv6),
			"delete the container and add it again")
	}
	others, limits, err := shared(ctx, client, key(args), w)
	if err != nil {
		return err
	}
	return enter(args.Netns, func() error { return checkContainer(w, limits, mapped(others)) })
}

func checkContainer(w api.Workload, limits ports.Set, theirs []netip.Addr) error {
	changed, err := portlimits.Overridden(limits, getSysctl)
	if err != nil {
		return types.NewError(types.ErrIOFailure, "read sysctl in the container: "+err.Error(), "")
	}
	if changed != nil {
		details := "connections from other ports are refused; take the sysctl out of the container's own settings"
		if w.Violations > 0 {
			details = fmt.Sprintf("%d packets from ports of others were refused so far; %s", w.Violations, details)
		}
		return types.NewError(codePortsOverride, "in the container "+strings.Join(changed, ", "), details)
	}
	if w.Inside != nil {
		return checkInside(w)
	}
	if w.Prefix.IsValid() {
		src, _, err := sourceFor(w.Prefix)
		if err != nil {
			return types.NewError(codeUnreachable, fmt.Sprintf("no route to %s in the container: %v", w.Prefix, err), "")
		}
		if src.IsValid() && src != w.Request.IPv6[0] && !slices.Contains(theirs, src) {
			return types.NewError(codeSource, fmt.Sprintf("the container's kernel sends from %s to %s, and "+
				"%s is the address that is mapped", src, w.Prefix, w.Request.IPv6[0]),
				"delete the container and add it again, or take the other address away")
		}
	}
	return nil
}

// gc deletes the assignments of this network that the runtime does not name.
func gc(args *skel.CmdArgs) error {
	c, err := parseBase(args)
	if err != nil {
		return err
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(args.StdinData, &given); err != nil {
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	if _, ok := given["cni.dev/valid-attachments"]; !ok {
		return types.NewError(types.ErrInvalidNetworkConfig, "GC without cni.dev/valid-attachments would delete everything: refused", "")
	}
	valid := make(map[api.Key]bool)
	for _, a := range c.ValidAttachments {
		valid[api.Key{ContainerID: a.ContainerID, Interface: a.IfName}] = true
	}
	ctx, cancel := within(patience)
	defer cancel()
	client := api.NewClient(c.Socket)
	workloads, err := client.List(ctx, api.Filter{Network: c.Name})
	if err != nil {
		return problem(err)
	}
	var errs []error
	for _, w := range workloads {
		if !valid[w.Key] {
			if err := client.Delete(ctx, w.Key); err != nil && !errors.Is(err, api.ErrNotFound) {
				errs = append(errs, err)
			}
		}
	}
	return problem(errors.Join(errs...))
}

// status reports whether the network works: 51 while nothing translates, 50 while
// natlessd starts. What fails here makes the whole node NotReady, and Kubernetes evicts
// what runs there after five minutes. So it does not fail
//   - without natlessd, or while it starts, as long as the kernel goes on without it:
//     what runs has its IPv4 where it is, and an ADD waits;
//   - for a full pool: an ADD that finds no room fails with its own code, and that pod
//     alone waits;
//   - on a host that is drained: what runs there is to go on until it is moved.
func status(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := within(patience)
	defer cancel()
	client := api.NewClient(c.Socket)
	switch err := client.Health(ctx); {
	case err == nil || goesOn():
		return nil
	case errors.Is(err, api.ErrUnavailable):
		return types.NewError(types.ErrLimitedConnectivity, err.Error(), remedies[api.CodeUnavailable])
	default:
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), remedies[api.CodeStarting])
	}
}
