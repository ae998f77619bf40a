package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// Without --all a pool shows its fullest addresses, this many.
const fewAddresses = 16

func newPools(o *options) *cobra.Command {
	all := false
	c := &cobra.Command{
		Use:   "pools",
		Short: "Show how full the pools and their addresses are",
		Args:  cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			ask := func() ([]api.Pool, error) { return o.client().FullestPools(c.Context(), fewAddresses) }
			if all || o.output == "json" {
				ask = func() ([]api.Pool, error) { return o.client().Pools(c.Context()) }
			}
			pools, err := ask()
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), append([]api.Pool{}, pools...))
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
		if err := table.Sentence(w, poolLine(p)); err != nil {
			return err
		}
		if p.Fleet && len(p.Addresses) == 0 {
			if err := table.Sentence(w, "  no block that can be used (natless blocks)"); err != nil {
				return err
			}
		}
		if err := printAddresses(w, p, all); err != nil {
			return err
		}
	}
	return nil
}

func poolLine(p api.Pool) string {
	text := []string{p.Name + ":"}
	if p.Uplink {
		text = append(text, "the host's own address,")
	}
	if p.Fleet {
		text = append(text, "blocks of the fleet,")
	}
	if p.WholeAddress {
		text = append(text, "whole addresses,")
	} else {
		text = append(text, words.Count(p.PortsPerWorkload, "port")+" each,")
	}
	if p.Inside {
		text = append(text, "IPv4 inside,")
	}
	cooldown := time.Duration(p.CooldownSeconds * float64(time.Second))
	line := strings.Join(append(text, fmt.Sprintf("%s, %s used, cooldown %s", words.Count(p.Workloads, "workload"),
		percent(p.PortsUsed, p.Ports), cooldown)), " ")
	if !p.Drained.IsZero() {
		line += ", drained since " + moment(p.Drained)
	}
	return line
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
		line := fmt.Sprintf("  %s\t%s\t%s\t%s", a.Address, bar(20, a.PortsUsed, a.PortsCooling, a.Ports), percent(a.PortsUsed, a.Ports),
			words.Count(a.Workloads, "workload"))
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
	if n := len(p.Addresses) - len(shown) + p.Others; n > 0 {
		fmt.Fprintf(t, "  and %s no fuller (--all shows all)\n", words.Count(n, "address"))
	}
	return t.Flush()
}
