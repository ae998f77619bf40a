package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/config/api"
)

// Without --all a pool shows its fullest addresses, this many.
const fewAddresses = 16

func newPools(o *options) *cobra.Command {
	all := false
	c := &cobra.Command{
		Use:   "pools",
		Short: "Show how full the pools and their addresses are",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			pools, err := o.client().Pools(c.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(c.OutOrStdout(), append([]api.Pool{}, pools...))
			}
			return printPools(c.OutOrStdout(), pools, all)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "show every address, not only the fullest")
	return c
}

func printPools(w io.Writer, pools []api.Pool, all bool) error {
	if len(pools) == 0 {
		_, err := fmt.Fprintln(w, "no pool is configured: add one under pools: in the config")
		return err
	}
	for i, p := range pools {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, poolLine(p))
		if err := printAddresses(w, p, all); err != nil {
			return err
		}
	}
	return nil
}

func poolLine(p api.Pool) string {
	words := []string{p.Name + ":"}
	if p.Uplink {
		words = append(words, "the host's own address,")
	}
	if p.WholeAddress {
		words = append(words, "whole addresses,")
	} else {
		words = append(words, fmt.Sprintf("%d ports each,", p.PortsPerWorkload))
	}
	cooldown := time.Duration(p.CooldownSeconds * float64(time.Second))
	return strings.Join(append(words, fmt.Sprintf("%d workloads, %s used, cooldown %s", p.Workloads, percent(p.PortsUsed, p.Ports),
		cooldown)), " ")
}

func printAddresses(w io.Writer, p api.Pool, all bool) error {
	shown := p.Addresses
	if !all && len(shown) > fewAddresses {
		shown = slices.Clone(shown)
		slices.SortStableFunc(shown, func(a, b api.PoolAddress) int { return b.PortsUsed + b.PortsCooling - a.PortsUsed - a.PortsCooling })
		shown = shown[:fewAddresses]
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range shown {
		line := fmt.Sprintf("  %s\t%s\t%s\t%d workloads", a.Address, bar(32, a.PortsUsed, a.PortsCooling, a.Ports),
			percent(a.PortsUsed, a.Ports), a.Workloads)
		if a.Barred != "" {
			fmt.Fprintf(t, "%s\tnever assigned: it is %s\n", line, a.Barred)
			continue
		}
		if p.WholeAddress {
			fmt.Fprintln(t, line)
			continue
		}
		line += fmt.Sprintf("\t%d of %d ports", a.PortsUsed, a.Ports)
		if a.PortsCooling > 0 {
			line += fmt.Sprintf(", %d cooling down", a.PortsCooling)
		}
		if a.PortsOfHost > 0 {
			line += fmt.Sprintf(", %d in use by the host", a.PortsOfHost)
		}
		fmt.Fprintln(t, line)
	}
	if n := len(p.Addresses) - len(shown); n > 0 {
		fmt.Fprintf(t, "  and %d addresses that are no fuller (--all shows them)\n", n)
	}
	return t.Flush()
}
