package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/config/api"
)

func newWorkloads(o *options) *cobra.Command {
	list := newWorkloadsList(o)
	c := &cobra.Command{
		Use:   "workloads",
		Short: "List, show and delete workloads",
		Args:  cobra.NoArgs,
		RunE:  list.RunE,
	}
	c.Flags().AddFlagSet(list.Flags())
	c.AddCommand(list, newWorkloadsShow(o), newWorkloadsDelete(o))
	return c
}

func newWorkloadsList(o *options) *cobra.Command {
	var f api.Filter
	var address string
	c := &cobra.Command{
		Use:   "list",
		Short: "List workloads with their addresses and ports",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if address != "" {
				if f.Address, err = netip.ParseAddr(address); err != nil {
					return fmt.Errorf("--address: %w", err)
				}
			}
			all, err := o.client().List(c.Context(), f)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(c.OutOrStdout(), append([]api.Workload{}, all...))
			}
			return printWorkloads(c.OutOrStdout(), all, time.Now())
		},
	}
	c.Flags().StringVar(&f.Name, "name", "", "only those of this `name`")
	c.Flags().StringVar(&f.Network, "network", "", "only those of this `network`")
	c.Flags().StringVar(&f.Pool, "pool", "", "only those of this `pool`")
	c.Flags().StringVar(&address, "address", "", "only those with this IPv4 or IPv6 `address`")
	c.RegisterFlagCompletionFunc("pool", o.completePool)
	return c
}

func printWorkloads(w io.Writer, all []api.Workload, now time.Time) error {
	var rows [][]string
	for _, wl := range all {
		rows = append(rows, []string{cmp.Or(wl.Request.Name, "-"), short(wl.Key), wl.Request.IPv6[0].String(),
			wl.Address.String(), api.PortsText(wl.Ports), wl.Pool, age(now, wl.Since)})
	}
	return table(w, "no workload has an assignment", []string{"NAME", "WORKLOAD", "IPV6", "ADDRESS", "PORTS", "POOL", "AGE"}, rows)
}

// short is a key with as much of the container's id as people read.
func short(k api.Key) string {
	id := k.ContainerID
	if len(id) > 12 {
		id = id[:12]
	}
	return id + "/" + k.Interface
}

// serial is an assignment's number, where it has one.
func serial(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func newWorkloadsShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "show WORKLOAD",
		Short:             "Show one workload, by its name or its container's id (or the start of it)",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeWorkload,
		RunE: func(c *cobra.Command, args []string) error {
			w, err := find(c.Context(), o.client(), args[0])
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(c.OutOrStdout(), w)
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
	prefix, asked, violations := "", "", ""
	if w.Prefix.IsValid() {
		prefix = w.Prefix.String()
	}
	if w.Request.Ports > 0 {
		asked = fmt.Sprintf("%d ports", w.Request.Ports)
	}
	if w.Violations > 0 {
		violations = fmt.Sprintf("%d packets from ports outside the set were refused", w.Violations)
	}
	return facts(out, "name", w.Request.Name, "workload", w.Key.String(), "serial", serial(w.Serial), "network", w.Request.Network, "namespace", w.Request.Netns, "interface", w.Request.HostInterface,
		"ipv6", strings.Join(ipv6, ", "), "address", w.Address.String(), "ports", api.PortsText(w.Ports), "asked for", asked, "pool", w.Pool,
		"prefix", prefix, "since", moment(w.Since)+" ("+age(now, w.Since)+")", "violations", violations)
}

func newWorkloadsDelete(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "delete WORKLOAD",
		Short: "Remove a workload's assignment, by its name or its container's id (or the start of it)",
		Long: `Remove a workload's assignment: it has no IPv4 from then on. Its ports stay out of
use for the pool's cooldown. The container runtime, or whoever else manages the
workload, is not told.`,
		Args:              cobra.ExactArgs(1),
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
				return printJSON(c.OutOrStdout(), w)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s gave back %s ports %s\n", cmp.Or(w.Request.Name, w.Key.String()), w.Address, api.PortsText(w.Ports))
			return err
		},
	}
}

// find gives the one workload that the words mean: its name, its key, or the
// start of its container's id.
func find(ctx context.Context, c *api.Client, words string) (api.Workload, error) {
	if id, iface, ok := strings.Cut(words, "/"); ok {
		w, err := c.Get(ctx, api.Key{ContainerID: id, Interface: iface})
		if err == nil || !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrInvalid) {
			return w, err
		}
	}
	all, err := c.List(ctx, api.Filter{})
	if err != nil {
		return api.Workload{}, err
	}
	id, iface, hasIface := strings.Cut(words, "/")
	var named, started []api.Workload
	for _, w := range all {
		if w.Request.Name == words {
			named = append(named, w)
		}
		if strings.HasPrefix(w.ContainerID, id) && (!hasIface || iface == w.Interface) {
			started = append(started, w)
		}
	}
	if len(named) == 0 {
		named = started
	}
	switch len(named) {
	case 0:
		return api.Workload{}, fmt.Errorf("no workload is called %q: `natless workloads` lists all", words)
	case 1:
		return named[0], nil
	}
	var keys []string
	for _, w := range named[:min(len(named), 5)] {
		keys = append(keys, w.Key.String())
	}
	return api.Workload{}, fmt.Errorf("%q may be %d workloads: %s", words, len(named), strings.Join(keys, ", "))
}
