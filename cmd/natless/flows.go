package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/talkers"
	"github.com/natless/natless/config/api"
)

// flowQuery is what `natless flows` was asked.
type flowQuery struct {
	api.FlowFilter
	remote string
	top    string
	most   int
}

func newFlows(o *options) *cobra.Command {
	q := &flowQuery{}
	c := &cobra.Command{
		Use:   "flows",
		Short: "Show who talks to whom",
		Long: `Show who talks to whom: the flows of workloads that are open, in packets and bytes
as an IPv4 wire has them, both ways. With --since, the records of those that ended,
too, as far as natlessd remembers them (the last 32,768); with --follow, records as
they come.

What policies denied is there with the rule, and what a workload gave way with on a
host that was overloaded as a flow without a far end: --verdict denied, denied-fragment,
shed or forward shows one of these.

--top sums up by workload, remote address or remote port, the most bytes first, what was
forwarded unless --verdict says otherwise; by rule what policies denied.

With -o json, each flow is a line. Needs flows in the configuration.`,
		Example: `  natless flows
  natless flows --workload web --since 10m
  natless flows --top remote --since 1h
  natless flows --verdict denied --since 10m
  natless flows --remote 203.0.113.0/24 --port 443 --follow -o json`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if q.remote != "" {
				p, err := prefixOrAddress(q.remote)
				if err != nil {
					return cli.Misuse("--remote %s: is neither an address nor ADDRESS/LEN", q.remote)
				}
				q.Remote = p
			}
			if q.top != "" && !slices.Contains(talkers.By, q.top) {
				return cli.Misuse("--top %s: is none of %s", q.top, strings.Join(talkers.By, ", "))
			}
			if q.Verdict != "" && !slices.Contains(api.FlowVerdicts, q.Verdict) {
				return cli.Misuse("--verdict %s: is none of %s", q.Verdict, strings.Join(api.FlowVerdicts, ", "))
			}
			if q.top != "" && q.top != talkers.ByRule && q.Verdict == "" {
				q.Verdict = "forward"
			}
			if q.top != "" && q.Follow {
				return cli.Misuse("--top and --follow exclude each other")
			}
			q.Open = !q.Follow
			return q.run(c, o)
		},
	}
	f := c.Flags()
	f.StringVar(&q.Workload, "workload", "", "of this workload: its `name`, key or serial, or how its container's id begins")
	f.StringVar(&q.remote, "remote", "", "with this `address` or prefix")
	f.IntVar(&q.Port, "port", 0, "with this `port` at either end")
	f.StringVar(&q.Proto, "proto", "", "of this `protocol`: tcp, udp, icmp or a number")
	f.StringVar(&q.Verdict, "verdict", "", "with what became of its packets for a `reason`: forward, denied, denied-fragment or shed")
	f.DurationVar(&q.Since, "since", 0, "and those that ended at most a `duration` ago, such as 10m")
	f.BoolVarP(&q.Follow, "follow", "f", false, "show records as they come")
	f.StringVar(&q.top, "top", "", "sum up by a `column`: workload, remote, port or rule")
	f.IntVarP(&q.most, "number", "n", 20, "a `count` of lines to show at most; 0: all")
	c.RegisterFlagCompletionFunc("workload", o.completeName)
	for _, name := range []string{"remote", "port", "since", "number"} {
		c.RegisterFlagCompletionFunc(name, nothing)
	}
	c.RegisterFlagCompletionFunc("top",
		cobra.FixedCompletions(talkers.By, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("verdict", cobra.FixedCompletions(api.FlowVerdicts, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("proto", cobra.FixedCompletions([]cobra.Completion{"tcp", "udp", "icmp"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (q *flowQuery) run(c *cobra.Command, o *options) error {
	w := c.OutOrStdout()
	var all []api.Flow
	lost := uint64(0)
	asJSON := json.NewEncoder(w)
	err := o.client().Flows(c.Context(), q.FlowFilter, func(s api.SeenFlow) error {
		lost += s.Lost
		switch {
		case s.Flow == nil:
			return nil
		case o.output == "json" && q.top == "":
			return asJSON.Encode(s.Flow)
		case q.Follow:
			_, err := fmt.Fprintf(w, "%s  %s\n", s.Flow.End.Local().Format(time.TimeOnly), flowWords(s.Flow))
			return err
		}
		all = append(all, *s.Flow)
		return nil
	})
	if lost > 0 {
		fmt.Fprintf(c.ErrOrStderr(), "%d records were lost because the reader was too slow\n", lost)
	}
	if err != nil || q.Follow || o.output == "json" && q.top == "" {
		return quiet(err)
	}
	if q.top != "" {
		return q.printTop(w, o, all)
	}
	return q.print(w, all)
}

// ends are both ends of a flow, who began it first.
func ends(f *api.Flow) (from, to string) {
	local, remote := f.Local.String(), f.Remote.String()
	if f.Verdict == "shed" {
		remote = "anybody"
	}
	if f.Proto == "tcp" || f.Proto == "udp" {
		local, remote = local+":"+strconv.Itoa(int(f.LocalPort)), remote+":"+strconv.Itoa(int(f.RemotePort))
	}
	if f.Initiator == "remote" {
		return remote, local
	}
	return local, remote
}

func flowWords(f *api.Flow) string {
	from, to := ends(f)
	return fmt.Sprintf("%s %s > %s  %s  sent %d packets, %d bytes, received %d, %d  %s %s", f.Proto, from, to, cmp.Or(f.Workload, "-"),
		f.Sent.Packets, f.Sent.Bytes, f.Received.Packets, f.Received.Bytes, f.End.Sub(f.Start).Round(time.Millisecond), stateWords(f))
}

// stateWords is why there is a record, and what became of the packets where they were
// not just forwarded.
func stateWords(f *api.Flow) string {
	switch {
	case f.Verdict != "" && f.Verdict != "forward" && f.Policy != "":
		return f.Reason + ", " + f.Verdict + " by " + f.Policy
	case f.Verdict != "" && f.Verdict != "forward":
		return f.Reason + ", " + f.Verdict
	case f.Policy != "":
		return f.Reason + ", " + f.Policy + " would deny it"
	}
	return f.Reason
}

func (q *flowQuery) print(w io.Writer, all []api.Flow) error {
	slices.SortStableFunc(all, func(a, b api.Flow) int {
		return cmp.Compare(b.Sent.Bytes+b.Received.Bytes, a.Sent.Bytes+a.Received.Bytes)
	})
	var rows [][]string
	for i := range all {
		if q.most > 0 && i == q.most {
			break
		}
		f := &all[i]
		from, to := ends(f)
		rows = append(rows, []string{cmp.Or(f.Workload, "-"), f.Proto, from, to, fmt.Sprint(f.Sent.Bytes), fmt.Sprint(f.Received.Bytes),
			fmt.Sprint(f.Sent.Packets + f.Received.Packets), f.End.Sub(f.Start).Round(time.Millisecond).String(), stateWords(f)})
	}
	if err := table.Write(w, "no flows", []table.Column{{Head: "WORKLOAD"}, {Head: "PROTO", Leave: 1}, {Head: "FROM"}, {Head: "TO"},
		{Head: "SENT", Right: true},
		{Head: "RECEIVED", Right: true}, {Head: "PACKETS", Right: true, Leave: 3}, {Head: "LASTED", Right: true, Leave: 2},
		{Head: "STATE", Leave: 4}}, rows); err != nil {
		return err
	}
	if len(rows) < len(all) {
		_, err := fmt.Fprintf(w, "and %d more (--number 0 shows all)\n", len(all)-len(rows))
		return err
	}
	return nil
}

func (q *flowQuery) printTop(w io.Writer, o *options, all []api.Flow) error {
	lines := talkers.Top(all, q.top, q.most)
	if o.output == "json" {
		return table.JSON(w, lines)
	}
	var rows [][]string
	for _, l := range lines {
		rows = append(rows, []string{l.What, fmt.Sprint(l.Flows), fmt.Sprint(l.Sent.Bytes), fmt.Sprint(l.Received.Bytes),
			fmt.Sprint(l.Sent.Packets), fmt.Sprint(l.Received.Packets)})
	}
	return table.Write(w, "no flows", []table.Column{{Head: strings.ToUpper(q.top)},
		{Head: "FLOWS", Right: true}, {Head: "SENT", Right: true}, {Head: "RECEIVED", Right: true},
		{Head: "PACKETS SENT", Right: true, Leave: 2}, {Head: "PACKETS RECEIVED", Right: true, Leave: 1}}, rows)
}

// printFlowStatus is the part of the status about flow records; nothing where there
// are none.
func printFlowStatus(w io.Writer, s api.FlowStatus) error {
	var rows [][]string
	if s.Enabled {
		state := fmt.Sprintf("%d of %d open", s.Open, s.MaxFlows)
		if s.Sample > 1 {
			state += fmt.Sprintf(", of a sample: 1/%d of all packets", s.Sample)
		}
		if s.Lost.Packets > 0 {
			state += fmt.Sprintf(", %d packets (%d bytes) found no room, last at %s", s.Lost.Packets, s.Lost.Bytes, moment(s.LostAt))
		}
		rows = append(rows, []string{"flows", state, "", ""})
		if s.Denied > 0 || s.Refused > 0 {
			state = fmt.Sprintf("%d open", s.Denied)
			if s.Refused > 0 {
				state += fmt.Sprintf(", %d packets found no room", s.Refused)
			}
			rows = append(rows, []string{"denied flows", state, "", ""})
		}
	}
	for _, r := range s.Receivers {
		rows = append(rows, []string{r.Name, r.State, fmt.Sprint(r.Written), fmt.Sprint(r.Dropped)})
	}
	most := func(a, b string) int { return cmp.Compare(s.LostBy[b].Packets, s.LostBy[a].Packets) }
	for _, name := range slices.SortedFunc(maps.Keys(s.LostBy), most) {
		rows = append(rows, []string{"not itemised of " + name, fmt.Sprintf("%d packets", s.LostBy[name].Packets), "", ""})
	}
	for _, name := range slices.SortedFunc(maps.Keys(s.RefusedBy), func(a, b string) int { return cmp.Compare(s.RefusedBy[b], s.RefusedBy[a]) }) {
		rows = append(rows, []string{"denied, not itemised of " + name, fmt.Sprintf("%d packets", s.RefusedBy[name]), "", ""})
	}
	if rows == nil {
		return nil
	}
	fmt.Fprintln(w)
	return table.Write(w, "", []table.Column{{Head: "FLOW RECORDS"}, {Head: "STATE"},
		{Head: "WRITTEN", Right: true}, {Head: "DROPPED", Right: true}}, rows)
}
