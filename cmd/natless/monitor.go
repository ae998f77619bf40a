package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/natless/natless/cmd/internal/packets"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/monitor"
)

// gapEvery is how often a reader is told how many packets are not shown.
const gapEvery = time.Second

func newMonitor(o *options) *cobra.Command {
	var s seeing
	var rate int
	var words, all, leave bool
	c := &cobra.Command{
		Use:   "monitor [FILTER]",
		Short: "Show packets as they pass, and what becomes of each",
		Long: `Show packets as they pass: the time, the direction, the verdict, the packet as it
came and, after the double arrow, as it left. A dropped packet has the reason.
A packet is shown when all flags and FILTER match; put FILTER in quotes when it
has parentheses. At most --rate packets a second are shown; the others are
counted. Ctrl-C ends it; a summary then goes to standard error.

Packets that the kernel's fast path translates by itself are seen as a sample: up to
1000 a second take the way through the daemon meanwhile, all of them where there are
fewer, and the summary says how many nobody saw. With --all, all take it, which is
slower; with --undisturbed none that does not take it anyway. Drops are always seen: it
is the daemon that drops packets.

A slow reader does not slow down the packets: those that it misses are counted as
lost. With -o json each packet is a line of JSON.

` + monitor.Grammar,
		Example: `  natless monitor --drops
  natless monitor --workload default/web --rate 0
  natless monitor 'workload default/web and not port 22'
  natless monitor -v -n 1 reason port-outside-set
  natless monitor -o json --for 10s | jq -r .verdict | sort | uniq -c`,
		RunE: func(c *cobra.Command, args []string) error {
			filter, err := s.filter(args)
			if err != nil {
				return err
			}
			stream, err := o.client().Watch(c.Context(), api.Watch{Filter: filter, Rate: rate, All: all, Leave: leave})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			m := &monitoring{seeing: &s, out: out, json: o.output == "json", style: packets.Style{
				ASCII: !table.UTF8(), Color: colorful(out), Words: words, Prefix: stream.Hello.Prefix}}
			notes(c.ErrOrStderr(), stream.Hello)
			fmt.Fprintf(c.ErrOrStderr(), "watching %s, Ctrl-C ends it\n", stream.Hello.Device)
			counts, err := s.watch(c.Context(), stream, m.show)
			m.gap(counts)
			summary(c.ErrOrStderr(), "shown", m.shown, counts)
			return err
		},
	}
	s.flags(c, o, "number")
	c.Flags().IntVar(&rate, "rate", 100, "show at most this many `packets` a second; 0: all")
	c.RegisterFlagCompletionFunc("rate", nothing)
	c.ValidArgsFunction = nothing
	c.Flags().BoolVarP(&words, "verbose", "v", false, "show both sides in the words of natless explain, and the mapping")
	pathFlags(c, &all, &leave)
	return c
}

func pathFlags(c *cobra.Command, all, leave *bool) {
	c.Flags().BoolVar(all, "all", false, "make the fast path leave all packets to the daemon meanwhile, and not only a sample")
	c.Flags().BoolVar(leave, "undisturbed", false, "see no packet that the fast path translates: all take the way that they take anyway")
	c.MarkFlagsMutuallyExclusive("all", "undisturbed")
}

// colorful reports whether w is a terminal whose user wants colors
// (https://no-color.org).
func colorful(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// monitor shows a stream.
type monitoring struct {
	*seeing
	out   io.Writer
	json  bool
	style packets.Style
	shown uint64
	last  api.Counts // as they were said
	said  time.Time
}

func (m *monitoring) show(seen api.Seen, _, _ []byte) error {
	if seen.Counts != nil && time.Since(m.said) > gapEvery {
		m.gap(*seen.Counts)
	}
	if seen.Packet == nil {
		return nil
	}
	if err := m.print(seen.Packet); err != nil {
		return err
	}
	if m.shown++; m.shown == m.count {
		return errEnough
	}
	return nil
}

func (m *monitoring) print(e *api.Event) error {
	if m.json {
		return json.NewEncoder(m.out).Encode(e)
	}
	_, err := io.WriteString(m.out, m.style.Line(e))
	return err
}

// gap says how many packets were not shown since it was last called.
func (m *monitoring) gap(c api.Counts) {
	if m.json {
		return
	}
	fmt.Fprint(m.out, m.style.Gap(c.Limited-m.last.Limited, c.Lost-m.last.Lost))
	m.last, m.said = c, time.Now()
}
