package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

func newBlocks(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "blocks",
		Short: "Show the blocks of addresses that a fleet has lent this host",
		Long: `Show the blocks of IPv4 addresses that a fleet has lent this host (pools with from: fleet),
who has something of them, for how many more workloads there is room, and what is wanted.

A block is draining when no new workload gets anything of it; it is given back when
nobody has anything of it, and nothing cools down. One that is unconfirmed is not used:
the host has been booted since natless-fleet agent last said that it is its own.`,
		Example: `  natless blocks
  natless blocks -o json`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := o.client().Blocks(c.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), b)
			}
			return printBlocks(c.OutOrStdout(), b)
		},
	}
}

func printBlocks(w io.Writer, b api.Blocks) error {
	if len(b.Pools) == 0 && len(b.Blocks) == 0 {
		return table.Sentence(w, "no pool here is from: fleet")
	}
	for _, p := range b.Pools {
		line := fmt.Sprintf("pool %s: room for %s, kept between %d and %d", p.Pool, words.Count(p.Headroom, "workload"), p.Low, p.High)
		if p.Wanted > 0 {
			line += fmt.Sprintf(", wants room for %d more", p.Wanted)
		}
		if err := table.Sentence(w, line); err != nil {
			return err
		}
	}
	if len(b.Blocks) == 0 {
		return table.Sentence(w, "the fleet has lent this host no block")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BLOCK\tPOOL\tLEASE\tWORKLOADS\tCOOLING\tSTATE")
	for _, one := range b.Blocks {
		state := "in use"
		switch {
		case one.Unconfirmed:
			state = "unconfirmed"
		case one.Draining:
			state = "draining"
		case one.Empty():
			state = "ready"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%s\n", one.IPv4, one.Pool, one.Lease, one.Workloads, one.Cooling, state)
	}
	return t.Flush()
}
