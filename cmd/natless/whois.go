package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/config/api"
)

func newWhois(o *options) *cobra.Command {
	var at string
	var records flowRecords
	c := &cobra.Command{
		Use:   "whois ADDRESS[:PORT]",
		Short: "Say which workload has, or had, an address and port",
		Long: `Say which workload has, or had, an IPv4 address and port, a whole IPv4 address, or
an IPv6 address; or that it belongs to an explicit mapping, to natlessd, to this
host or another on its links, to a customer's edge of MAP-T, or stands for an
address outside. On a relay, to which host of the fleet a block was lent; on the
edge of a fabric, by its address there as well. Where nobody has it, say who had
it last, and until when.

With -o json a question for ADDRESS:PORT is answered with its owner, all others
with an object that has owners, and before: who had it last.

With --records, say as well whom it talked to then: which of the flows that natlessd
has open or remembers, or that are in the files of records (--file), went on at that
time. Needs flows in the configuration.

Exit status: 0 when somebody has, or had, it; else 1.`,
		Example: `  natless whois 198.51.100.7:4321
  natless whois 198.51.100.7
  natless whois 2001:db8:6::2
  natless whois 198.51.100.7:4321 --at 10:32
  natless whois 198.51.100.7:4321 --at 'yesterday 23:10'
  natless whois 198.51.100.7:4321 --at 2026-01-02T15:04:05Z
  natless whois 198.51.100.7:4321 --at 10m
  natless whois 198.51.100.7:4321 --at 10m --records --file /var/lib/natless/flows.json`,
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.completeAddress,
		RunE: func(c *cobra.Command, args []string) error {
			a, port, err := cli.ParseTarget(args[0])
			if err != nil {
				return err
			}
			when, err := cli.ParseTime(at, time.Now())
			if err != nil {
				return err
			}
			all, err := o.client().Owners(c.Context(), a, port, when)
			if err != nil {
				return err
			}
			asked := question{words: args[0], port: port, at: when}
			if records.wanted || records.files != nil {
				return records.print(c, o, asked, a, all)
			}
			if o.output == "json" {
				return asked.printJSON(c.OutOrStdout(), all)
			}
			return asked.print(c.OutOrStdout(), all)
		},
	}
	c.Flags().StringVar(&at, "at", "", "at this `time`: 15:04, yesterday, 'yesterday 15:04', 2006-01-02 15:04[:05] (local time), "+
		"RFC 3339, or how long ago, such as 10m or 2d")
	c.Flags().BoolVar(&records.wanted, "records", false, "and whom it talked to, by flow records")
	c.Flags().StringArrayVar(&records.files, "file", nil, "of a `file` of records as well; may be repeated")
	c.RegisterFlagCompletionFunc("at", cobra.FixedCompletions([]cobra.Completion{"yesterday", "10m", "1h", "1d"},
		cobra.ShellCompDirectiveNoFileComp))
	return c
}

// question is what whois was asked.
type question struct {
	words string
	port  int
	at    time.Time
}

// nobody says that nobody has it, and who had.
func (q question) nobody(all api.Owners) error {
	text := "nobody has " + q.words
	if !q.at.IsZero() {
		text = fmt.Sprintf("nobody had %s at %s", q.words, moment(q.at))
	}
	if all.Detail != "" {
		text += ": " + all.Detail
	}
	for i, o := range all.Before {
		who := cmp.Or(o.Name, o.Key.String())
		switch {
		case i == 0:
			text += fmt.Sprintf("\n  %s had it last, from %s until %s (natless whois %s --at %s)", who, moment(o.Since), moment(o.Until),
				q.words, o.Until.Add(-time.Second).UTC().Format(time.RFC3339))
		default:
			text += fmt.Sprintf("\n  %s had ports %s of it from %s until %s", who, o.Ports, moment(o.Since), moment(o.Until))
		}
	}
	if all.Before == nil && !q.at.IsZero() {
		text += ", or the history does not reach back that far (registry.history)"
	}
	return fmt.Errorf("%s", text)
}

func (q question) printJSON(w io.Writer, all api.Owners) error {
	switch {
	case q.port < 0:
		if err := table.JSON(w, all); err != nil {
			return err
		}
	case len(all.Owners) == 1:
		return table.JSON(w, all.Owners[0])
	case len(all.Owners) > 1:
		return table.JSON(w, all)
	}
	if len(all.Owners) == 0 {
		return q.nobody(all)
	}
	return nil
}

func (q question) print(w io.Writer, all api.Owners) error {
	if all.Address.IsValid() {
		if _, err := fmt.Fprintf(w, "%s is where relays lead %v\n", q.words, all.Address); err != nil {
			return err
		}
		q.words = all.Address.String()
		if q.port >= 0 {
			q.words = netip.AddrPortFrom(all.Address, uint16(q.port)).String()
		}
	}
	if len(all.Owners) == 0 {
		return q.nobody(all)
	}
	if !q.at.IsZero() {
		if _, err := fmt.Fprintf(w, "%s at %s:\n", q.words, moment(q.at)); err != nil {
			return err
		}
	}
	if len(all.Owners) == 1 {
		return printOwner(w, all.Owners[0])
	}
	var rows [][]string
	for _, o := range all.Owners {
		rows = append(rows, []string{cmp.Or(o.Name, o.Detail, "-"), keyWords(o.Key), addresses(o.IPv6), api.PortsText(o.Ports),
			moment(o.Since), moment(o.Until)})
	}
	return table.Write(w, "", []table.Column{{Head: "NAME"}, {Head: "WORKLOAD", Leave: 2}, {Head: "IPV6", Leave: 3},
		{Head: "PORTS"}, {Head: "SINCE", Leave: 1},
		{Head: "UNTIL"}}, rows)
}

// keyWords is a key as people read it, "-" of who is no workload.
func keyWords(k api.Key) string {
	if k == (api.Key{}) {
		return "-"
	}
	return short(k)
}

func addresses(all []netip.Addr) string {
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}

func printOwner(w io.Writer, o api.Owner) error {
	key, address, ports, way := "", "", "", ""
	if o.Inside {
		way = "inside"
	}
	if o.Key != (api.Key{}) {
		key = o.Key.String()
	}
	if o.Address.IsValid() {
		address = o.Address.String()
	}
	if o.Kind == "" || o.Kind == api.OwnerMapping || o.Kind == api.OwnerCE || o.Kind == api.OwnerBlock {
		ports = api.PortsText(o.Ports)
	}
	return table.Facts(w, "name", o.Name, "workload", key, "serial", serial(o.Serial), "is", o.Detail,
		"network", o.Network, "ipv6", addresses(o.IPv6),
		"address", address, "ports", ports, "ipv4", way, "pool", o.Pool, "since", moment(o.Since), "until", moment(o.Until))
}
