package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/config/api"
)

func newWhois(o *options) *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "whois ADDRESS:PORT",
		Short: "Say which workload has, or had, an IPv4 address and port",
		Example: `  natless whois 198.51.100.7:4321
  natless whois 198.51.100.7:4321 --at 2026-01-02T15:04:05Z
  natless whois 198.51.100.7:4321 --at '2026-01-02 15:04'
  natless whois 198.51.100.7:4321 --at 10m`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := netip.ParseAddrPort(args[0])
			if err != nil {
				return fmt.Errorf("%q is not an address and port, such as 198.51.100.7:4321", args[0])
			}
			when, err := parseTime(at, time.Now())
			if err != nil {
				return err
			}
			owner, err := o.client().Whois(c.Context(), a, when)
			if errors.Is(err, api.ErrNotFound) {
				return fmt.Errorf("nobody %s", has(a, when))
			}
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(c.OutOrStdout(), owner)
			}
			return printOwner(c.OutOrStdout(), owner)
		},
	}
	c.Flags().StringVar(&at, "at", "", "at this `time`: RFC 3339, local time as 2006-01-02 15:04[:05], or how long ago, such as 10m")
	return c
}

func has(a netip.AddrPort, at time.Time) string {
	if at.IsZero() {
		return "has " + a.String()
	}
	return fmt.Sprintf("had %s at %s, or the history does not reach back that far", a, moment(at))
}

func printOwner(w io.Writer, o api.Owner) error {
	var ipv6 []string
	for _, ip := range o.IPv6 {
		ipv6 = append(ipv6, ip.String())
	}
	return facts(w, "name", o.Name, "workload", o.Key.String(), "serial", serial(o.Serial), "network", o.Network, "ipv6",
		strings.Join(ipv6, ", "),
		"address", o.Address.String(), "ports", o.Ports.String(), "pool", o.Pool, "since", moment(o.Since), "until", moment(o.Until))
}

// parseTime reads a time as people write it; empty is the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(s, "-")); err == nil {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("--at %q: write 2026-01-02T15:04:05Z, '2026-01-02 15:04', or how long ago, such as 10m", s)
}
