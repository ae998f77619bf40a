package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	count "github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

func newWorkloads(o *options) *cobra.Command {
	list := newWorkloadsList(o)
	c := &cobra.Command{
		Use:   "workloads",
		Short: "List, show and delete workloads",
		Args:  cli.Arguments(0, 0),
		RunE:  list.RunE,
	}
	c.Flags().AddFlagSet(list.Flags())
	c.AddCommand(list, newWorkloadsShow(o), newWorkloadsDelete(o))
	return c
}

func newWorkloadsShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "show WORKLOAD",
		Short:             "Show one workload, by its name or its container's id (or the start of it)",
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.completeWorkload,
		RunE: func(c *cobra.Command, args []string) error {
			w, err := find(c.Context(), o.client(), args[0])
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), w)
			}
			return printWorkload(c.OutOrStdout(), w, time.Now())
		},
	}
}

func printWorkload(out io.Writer, w api.Workload, now time.Time) error {
	var ipv6 []string
	for _, ip := range w.Request.IPv6 {
		ipv6 = append(ipv6, ip.String())
	}
	prefix, asked, violations, shed, denied := "", "", "", "", ""
	if w.Prefix.IsValid() {
		prefix = w.Prefix.String()
	}
	if w.Request.Ports > 0 {
		asked = count.Count(w.Request.Ports, "port")
	}
	if w.Violations > 0 {
		violations = count.Count(w.Violations, "packet from ports outside the set, refused")
	}
	if w.Shed > 0 {
		shed = count.Count(w.Shed, "packet more than it may bring, dropped")
	}
	if w.Denied > 0 {
		denied = count.Count(w.Denied, "packet that policies denied")
	}
	return table.Facts(out, "name", w.Request.Name, "workload", w.Key.String(), "serial", serial(w.Serial), "network", w.Request.Network,
		"namespace", w.Request.Netns, "interface", w.Request.HostInterface,
		"ipv6", strings.Join(ipv6, ", "), "address", w.Address.String(), "ports", api.PortsText(w.Ports), "ipv4", wayOf(w),
		"asked for", asked, "pool", w.Pool,
		"prefix", prefix, "since", moment(w.Since)+" ("+age(now, w.Since)+")", "sent", trafficOf(w, true),
		"received", trafficOf(w, false), "violations", violations, "shed", shed, "denied", denied)
}

// trafficOf is what was translated for a workload, in one direction.
func trafficOf(w api.Workload, sent bool) string {
	if w.Traffic == nil {
		return ""
	}
	n := w.Traffic.Received
	if sent {
		n = w.Traffic.Sent
	}
	return packetsOf(n.Packets) + ", " + scaled(float64(n.Bytes)) + "B"
}

// wayOf says how a workload has its IPv4, where that is not by the prefix.
func wayOf(w api.Workload) string {
	switch {
	case w.Inside == nil:
		return ""
	case w.Stale():
		return fmt.Sprintf("inside, where its interface still has %s: what it sends from there is dropped; create the container again",
			w.Inside.Address)
	}
	return "inside: its interface has the address"
}

// serial is an assignment's number, where it has one.
func serial(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func newWorkloadsDelete(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "delete WORKLOAD",
		Short: "Remove a workload's assignment, by its name or its container's id (or the start of it)",
		Long: `Remove a workload's assignment: it has no IPv4 from then on. Its ports stay out of
use for the pool's cooldown. The container runtime, or whoever else manages the
workload, is not told.`,
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.completeWorkload,
		RunE: func(c *cobra.Command, args []string) error {
			w, err := find(c.Context(), o.client(), args[0])
			if err != nil {
				return err
			}
			if err := o.client().Delete(c.Context(), w.Key); err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), w)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s gave back %s ports %s\n",
				cmp.Or(w.Request.Name, w.Key.String()), w.Address, api.PortsText(w.Ports))
			return err
		},
	}
}

// find gives the one workload that the words mean: its name, its key, or the
// start of its container's id.
func find(ctx context.Context, c *api.Client, words string) (api.Workload, error) {
	id, iface, hasIface := strings.Cut(words, "/")
	if hasIface {
		w, err := c.Get(ctx, api.Key{ContainerID: id, Interface: iface})
		if err == nil || !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrInvalid) {
			return w, err
		}
	}
	if words == "" {
		return api.Workload{}, cli.Misuse("a name, or the start of a container's id, has at least one character")
	}
	found, err := c.Rows(ctx, api.Filter{Name: words})
	if err == nil && len(found) == 0 {
		found, err = c.Rows(ctx, api.Filter{Start: id})
		found = slices.DeleteFunc(found, func(r api.Row) bool { return hasIface && iface != r.Interface })
	}
	if err != nil {
		return api.Workload{}, err
	}
	switch len(found) {
	case 0:
		return api.Workload{}, fmt.Errorf("no workload is called %q: `natless workloads` lists all", words)
	case 1:
		return c.Get(ctx, found[0].Key)
	}
	var keys []string
	for _, r := range found {
		keys = append(keys, r.Key.String())
	}
	return api.Workload{}, fmt.Errorf("%q may be %s: %s", words, count.Count(len(found), "workload"), count.Some(keys, 5))
}
