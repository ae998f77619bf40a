package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/config/api"
)

func newRelay(o *options) *cobra.Command {
	rules := false
	c := &cobra.Command{
		Use:   "relay",
		Short: "Show how this relay stands with its fleet, and the rules that it goes by",
		Long: `Show how this relay stands: whether it serves, which epoch of the fleet it goes by, and how long
ago the fleet said that its rules hold. A rule leads a block of IPv4 addresses to the host
that the fleet has lent it.

A relay drains where other relays are to be preferred, because its view of the fleet is stale
or relay.drain is set: it translates all the same. One that is unconfirmed uses no rule: the
host has been booted since they were last told.`,
		Example: `  natless relay
  natless relay --rules
  natless relay -o json`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := o.client().Relay(c.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), r)
			}
			return printRelay(c.OutOrStdout(), r, rules)
		},
	}
	c.Flags().BoolVar(&rules, "rules", false, "list the rules")
	return c
}

func printRelay(w io.Writer, r api.Relay, rules bool) error {
	told := "never"
	if ago, ever := r.ConfirmedAgo(); ever {
		told = ago.Round(time.Second).String() + " ago"
	}
	if err := table.Facts(w, "relay", r.State, "  because", r.Why, "  epoch", fmt.Sprint(r.Epoch), "  rules", fmt.Sprint(r.Count), "  last told", told); err != nil {
		return err
	}
	if !rules {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BLOCK\tPORTS\tHOST\tLEASE")
	for _, one := range r.Rules {
		ports := "all"
		if !one.Ports.IsZero() {
			ports = one.Ports.String()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", one.IPv4, ports, one.IPv6, one.Lease)
	}
	return t.Flush()
}
