package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/packets"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator"
)

// seeing is what monitor and capture have in common: which packets, and until
// when.
type seeing struct {
	workloads, addresses, verdicts []string
	port, proto, direction         string
	drops                          bool
	count                          uint64
	duration                       time.Duration
}

func (s *seeing) flags(c *cobra.Command, o *options, count string) {
	f := c.Flags()
	f.StringSliceVar(&s.workloads, "workload", nil,
		"only packets of this `workload`: its name, CONTAINER/INTERFACE, or the start of its container's id")
	f.StringSliceVar(&s.addresses, "address", nil, "only packets with this `address`, or ADDRESS/LEN, on either side")
	f.StringVar(&s.port, "port", "", "only packets with this `port`, or N-M")
	f.StringVar(&s.proto, "proto", "", "only packets of this `protocol`: tcp, udp, icmp or a number")
	f.StringSliceVar(&s.verdicts, "reason", nil, "only packets with this `reason` or verdict, as natless status names it")
	f.StringVar(&s.direction, "direction", "", "only packets in this `direction`: 6to4, 4to6 or 4to4")
	f.BoolVar(&s.drops, "drops", false, "only packets that were dropped")
	f.Uint64VarP(&s.count, count, count[:1], 0, "end after this many `packets`")
	f.DurationVar(&s.duration, "for", 0, "end after this `time`, such as 10s")
	c.RegisterFlagCompletionFunc("workload", o.completeWorkload)
	for _, plain := range []string{"address", "port", "for", count} {
		c.RegisterFlagCompletionFunc(plain, nothing)
	}
	c.RegisterFlagCompletionFunc("reason", completeVerdict)
	c.RegisterFlagCompletionFunc("proto", cobra.FixedCompletions([]cobra.Completion{"tcp", "udp", "icmp"}, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions([]cobra.Completion{"6to4", "4to6", "4to4"}, cobra.ShellCompDirectiveNoFileComp))
}

func completeVerdict(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	for v := range translator.NumVerdicts {
		names = append(names, v.String())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// filter puts flags and words together to one filter.
func (s *seeing) filter(words []string) (string, error) {
	var all []string
	if text := strings.TrimSpace(strings.Join(words, " ")); text != "" {
		all = append(all, text)
	}
	for _, w := range s.workloads {
		if w == "" || strings.Contains(w, `"`) {
			return "", cli.Misuse("--workload %s: is not a name", w)
		}
	}
	for _, a := range s.addresses {
		if _, err := prefixOrAddress(a); err != nil {
			return "", cli.Misuse("--address %s: is neither an address nor ADDRESS/LEN", a)
		}
	}
	any := func(format string, values []string) {
		var parts []string
		for _, v := range values {
			parts = append(parts, fmt.Sprintf(format, v))
		}
		if parts != nil {
			all = append(all, strings.Join(parts, " or "))
		}
	}
	any(`workload "%s"`, s.workloads)
	any("host %s", s.addresses)
	any("verdict %s", s.verdicts)
	for _, flag := range [][2]string{{"port", s.port}, {"proto", s.proto}, {"dir", s.direction}} {
		if flag[1] != "" {
			if strings.ContainsAny(flag[1], " ()\"!") {
				return "", cli.Misuse("--%s %q: is one word", cmp.Or(map[string]string{"dir": "direction"}[flag[0]], flag[0]), flag[1])
			}
			all = append(all, flag[0]+" "+flag[1])
		}
	}
	if s.drops {
		all = append(all, "drop")
	}
	if len(all) == 1 {
		return all[0], nil
	}
	for i, part := range all {
		all[i] = "(" + part + ")"
	}
	return strings.Join(all, " and "), nil
}

// errEnough ends a stream that was looked at for long enough.
var errEnough = errors.New("enough")

// watch runs each for every line of the stream until that, the user, the time
// or the daemon ends it. It gives the last counts.
func (s *seeing) watch(ctx context.Context, stream *api.Stream, each func(seen api.Seen, in, out []byte) error) (counts api.Counts,
	err error) {
	defer stream.Close()
	if s.duration > 0 {
		timer := time.AfterFunc(s.duration, stream.Close)
		defer timer.Stop()
	}
	for {
		seen, in, out, err := stream.Next()
		switch {
		case err == io.EOF && counts.End:
			return counts, fmt.Errorf("natlessd has ended")
		case errors.Is(err, context.Canceled):
			return counts, nil
		case err != nil:
			return counts, err
		}
		if seen.Counts != nil {
			counts = *seen.Counts
		}
		if err := each(seen, in, out); err == errEnough {
			return counts, nil
		} else if err != nil {
			return counts, err
		}
	}
}

// packetsOf is a number of packets.
func packetsOf(n uint64) string {
	if n == 1 {
		return "1 packet"
	}
	return packets.Number(n) + " packets"
}

// summary is what everybody learns at the end.
func summary(w io.Writer, verb string, done uint64, c api.Counts) {
	text := fmt.Sprintf("%s %s, %s passed", packetsOf(done), verb, packets.Number(max(c.Seen, done)))
	if c.Limited > 0 {
		text += fmt.Sprintf(", %s left out for --rate", packets.Number(c.Limited))
	}
	if c.FastPath > 0 {
		text += fmt.Sprintf(", the fast path translated %s more that nobody saw", packets.Number(c.FastPath))
	}
	if c.Shed > 0 {
		text += fmt.Sprintf(", the kernel dropped %s of workloads that gave way", packets.Number(c.Shed))
	}
	if c.Lost > 0 {
		text += fmt.Sprintf(", %s lost because the reader was too slow", packets.Number(c.Lost))
	}
	fmt.Fprintln(w, text)
}

func notes(w io.Writer, h api.Hello) {
	for _, n := range h.Notes {
		fmt.Fprintln(w, "note:", n)
	}
}
