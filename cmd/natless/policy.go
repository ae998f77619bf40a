package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

func newPolicy(o *options) *cobra.Command {
	c := cli.Group(&cobra.Command{Use: "policy", Short: "Show policies, whom they select, and what they say"})
	c.AddCommand(newPolicyList(o), newPolicyExplain(o), newPolicyTest(o))
	return c
}

func newPolicyList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the policies in force, in the order in which they are asked",
		Args:  cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			answer, err := o.client().Policies(c.Context(), api.PolicyQuestion{})
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), answer.Policies)
			}
			return printPolicies(c.OutOrStdout(), answer.Policies)
		},
	}
}

func printPolicies(w io.Writer, all []api.Policy) error {
	var rows [][]string
	for _, p := range all {
		denied, audited := uint64(0), uint64(0)
		for _, r := range p.Rules {
			denied, audited = denied+r.Denied, audited+r.Audited
		}
		state := "in force"
		if p.Audit {
			state = "audited"
		}
		rows = append(rows, []string{p.Name, p.Tier, strconv.Itoa(p.Priority), state, selected(p), strconv.Itoa(p.Workloads), strconv.Itoa(len(p.Rules)),
			strconv.FormatUint(denied, 10), strconv.FormatUint(audited, 10)})
	}
	columns := table.Plain("NAME", "TIER", "PRIORITY", "STATE", "SELECTS", "WORKLOADS", "RULES", "DENIED", "AUDITED")
	for _, i := range []int{2, 5, 6, 7, 8} {
		columns[i].Right = true
	}
	return table.Write(w, "no policies are in force: workloads may talk to everybody", columns, rows)
}

// selected is whom a policy selects, in words.
func selected(p api.Policy) string {
	var text []string
	if p.Namespace != "" {
		text = append(text, "namespace "+p.Namespace)
	}
	if p.Workload != "" {
		text = append(text, "name "+p.Workload)
	}
	var labels []string
	for k, v := range p.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	text = append(text, labels...)
	if text == nil {
		return "all"
	}
	return strings.Join(text, ", ")
}

func newPolicyExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "explain WORKLOAD",
		Short:             "Show the rules that a workload is held to, in their order",
		Example:           "  natless policy explain shop/web",
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.completeWorkload,
		RunE: func(c *cobra.Command, args []string) error {
			w, err := find(c.Context(), o.client(), args[0])
			if err != nil {
				return err
			}
			answer, err := o.client().Policies(c.Context(), api.PolicyQuestion{Workload: w.Key})
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), answer.Policies)
			}
			return printRules(c.OutOrStdout(), answer.Policies)
		},
	}
}

func printRules(w io.Writer, all []api.Policy) error {
	var rows [][]string
	for _, p := range all {
		for _, r := range p.Rules {
			protocols := "all"
			if r.Protocols != nil {
				protocols = strings.Join(r.Protocols, ", ")
			}
			networks := make([]string, 0, len(r.Networks))
			for _, n := range r.Networks {
				networks = append(networks, n.String())
			}
			if len(networks) > 4 {
				networks = append(networks[:3], "and "+words.Count(len(r.Networks)-3, "other"))
			}
			action := r.Action
			if p.Audit {
				action += " (audited)"
			}
			rows = append(rows, []string{p.Tier, r.Rule, action, strings.Join(networks, ", "), protocols, strconv.FormatUint(r.Denied, 10)})
		}
	}
	columns := table.Plain("TIER", "RULE", "ACTION", "NETWORKS", "PROTOCOLS", "DENIED")
	columns[5].Right = true
	return table.Write(w, "no policy selects it: it may talk to everybody", columns, rows)
}

// protocolNumbers are those that one may ask for by name.
var protocolNumbers = map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "sctp": 132, "udplite": 136}

func newPolicyTest(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "test WORKLOAD out|in PROTOCOL REMOTE [PORT]",
		Short: "Say whether policies let a workload begin something, or a remote",
		Long: `Say whether policies let a workload begin something with an IPv4 remote (out), or the
remote with the workload (in), and which rule decides. PORT is the one that is
connected to: the remote's or the workload's. Nothing is sent. For a packet with all
that it says there is natless explain.`,
		Example: `  natless policy test shop/web out tcp 203.0.113.7 443
  natless policy test shop/web in udp 192.0.2.9 5353`,
		Args:              cli.Arguments(4, 5),
		ValidArgsFunction: o.completeWorkload,
		RunE: func(c *cobra.Command, args []string) error {
			q := api.PolicyQuestion{Out: args[1] == "out"}
			if !q.Out && args[1] != "in" {
				return cli.Misuse("%q is neither out nor in", args[1])
			}
			var err error
			if q.Proto, err = protocol(args[2]); err != nil {
				return err
			}
			if q.Remote, err = netip.ParseAddr(args[3]); err != nil || !q.Remote.Is4() {
				return cli.Misuse("%q is not an IPv4 address", args[3])
			}
			if len(args) == 5 {
				port, err := strconv.ParseUint(args[4], 10, 16)
				if err != nil {
					return cli.Misuse("%q is not a port", args[4])
				}
				q.Port = uint16(port)
			}
			w, err := find(c.Context(), o.client(), args[0])
			if err != nil {
				return err
			}
			q.Workload = w.Key
			answer, err := o.client().Policies(c.Context(), q)
			if err != nil {
				return err
			}
			if answer.Decision == nil {
				return fmt.Errorf("natlessd said nothing: is it of another version?")
			}
			if o.output == "json" {
				return table.JSON(c.OutOrStdout(), answer.Decision)
			}
			return table.Sentence(c.OutOrStdout(), decision(*answer.Decision))
		},
	}
}

func protocol(s string) (uint8, error) {
	if n, ok := protocolNumbers[s]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, cli.Misuse("%q is not a protocol: there are tcp, udp, icmp, sctp, dccp, udplite, and numbers", s)
	}
	return uint8(n), nil
}

func decision(d api.PolicyDecision) string {
	text := "denied"
	if d.Allow {
		text = "allowed"
	}
	switch {
	case d.Rule != "":
		text += ", by " + d.Rule
	default:
		text += ": no rule matches"
	}
	if d.Audited != "" {
		text += "; " + d.Audited + " would deny it, and is only audited"
	}
	return text
}
