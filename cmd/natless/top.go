package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// topping is what top was asked for.
type topping struct {
	listing
	every  time.Duration
	count  int
	once   bool
	limit  int
	idle   bool // who does nothing is shown as well
	screen bool // a terminal is written anew each time
	json   bool
}

// leastInterval is the shortest time over which packets are counted.
const leastInterval = 100 * time.Millisecond

func newTop(o *options) *cobra.Command {
	t := topping{every: 2 * time.Second}
	c := &cobra.Command{
		Use:   "top",
		Short: "Show who sends and receives how much just now",
		Long: `Show how much each workload sends and receives just now, the busiest first: bits and
packets a second, over the time since the look before. A packet counts whether the
daemon translated it or the fast path, a superpacket as one; bits are those of the
packets from the IP header on. REFUSED are packets from ports that are not the
workload's own, DENIED those that policies denied, both ways, SHED those that were dropped
because it brings more than it may: while the host is overloaded, or by limits of its
own. DAEMON are those of the packets that took the way through the daemon, and not the
fast path.

On a terminal the table is written anew every --interval until Ctrl-C ends it, with as
many workloads as there is room for. Elsewhere one table follows another. Those without
traffic are left out, but for --idle. With -o json each look is a line of JSON, and
--once gives one document; both have all workloads that match, unless --limit says how
many.`,
		Example: `  natless top
  natless top --sort received --name 'default/*'
  natless top --once --limit 10
  natless top --once -o json | jq -r '.workloads[0].name'`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := t.parse(); err != nil {
				return err
			}
			out := c.OutOrStdout()
			t.json = o.output == "json"
			t.screen = !t.once && !t.json && t.count == 0 && colorful(out)
			return t.run(c.Context(), o.client(), out)
		},
	}
	f := c.Flags()
	t.filters(c, o)
	f.StringVar(&t.sort, "sort", "traffic", "sort by this `column`: "+strings.Join(topNames(), ", "))
	f.DurationVarP(&t.every, "interval", "d", t.every, "look again after this `time`, such as 500ms")
	f.IntVarP(&t.count, "number", "n", 0, "end after this `count` of looks")
	f.BoolVar(&t.once, "once", false, "end after the first look")
	f.IntVar(&t.limit, "limit", 0, "show this `count` of workloads at most")
	f.BoolVar(&t.idle, "idle", false, "show those without traffic as well")
	for _, plain := range []string{"interval", "number", "limit"} {
		c.RegisterFlagCompletionFunc(plain, nothing)
	}
	c.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(topNames(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (t *topping) parse() error {
	if err := t.parseFilter(); err != nil {
		return err
	}
	switch {
	case !slices.Contains(topNames(), t.sort):
		return cli.Misuse("--sort %s: is none of %s", t.sort, strings.Join(topNames(), ", "))
	case t.every < leastInterval:
		return cli.Misuse("--interval %v: is less than %v", t.every, leastInterval)
	case t.limit < 0 || t.count < 0:
		return cli.Misuse("--limit and --number are 0 or more")
	}
	if t.once {
		t.count = 1
	}
	return nil
}

// rates are a workload's, per second.
type rates struct {
	Packets float64 `json:"packets_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
}

func (r rates) plus(s rates) rates { return rates{r.Packets + s.Packets, r.Bytes + s.Bytes} }

// busy is a workload, and how much it does.
type busy struct {
	row      *api.Row
	sent     rates
	received rates
	refused  float64 // packets per second
	shed     float64
	denied   float64
	daemon   float64
}

func (b *busy) bytes() float64   { return b.sent.Bytes + b.received.Bytes }
func (b *busy) active() bool     { return b.packets() > 0 || b.refused+b.shed+b.denied > 0 }
func (b *busy) packets() float64 { return b.sent.Packets + b.received.Packets }

// tops are what top sorts by; the greatest comes first, but for names.
var tops = []struct {
	name    string
	compare func(a, b *busy) int
}{
	{"traffic", func(a, b *busy) int { return cmp.Compare(b.bytes(), a.bytes()) }},
	{"sent", func(a, b *busy) int { return cmp.Compare(b.sent.Bytes, a.sent.Bytes) }},
	{"received", func(a, b *busy) int { return cmp.Compare(b.received.Bytes, a.received.Bytes) }},
	{"packets", func(a, b *busy) int { return cmp.Compare(b.packets(), a.packets()) }},
	{"refused", func(a, b *busy) int { return cmp.Compare(b.refused, a.refused) }},
	{"denied", func(a, b *busy) int { return cmp.Compare(b.denied, a.denied) }},
	{"daemon", func(a, b *busy) int { return cmp.Compare(b.daemon, a.daemon) }},
	{"shed", func(a, b *busy) int { return cmp.Compare(b.shed, a.shed) }},
	{"name", func(a, b *busy) int { return words.Natural(a.row.Name, b.row.Name) }},
}

func topNames() (names []string) {
	for _, s := range tops {
		names = append(names, s.name)
	}
	return names
}

// look is what all do, over a time.
type look struct {
	at       time.Time
	over     time.Duration
	all      []busy
	sent     rates // of all together
	received rates
	refused  float64
	shed     float64
	denied   float64
	daemon   float64
	active   int
}

// between compares two looks. Who was not there at the first, or whose counters have
// begun anew, is compared with nothing: he does nothing yet.
func between(before map[api.Key]counted, rows []api.Row) look {
	l := look{at: time.Now(), all: make([]busy, 0, len(rows))}
	for i := range rows {
		r := &rows[i]
		b := busy{row: r}
		was, known := before[r.Key]
		if over := r.Clock - was.Clock; known && over > 0 && !fallen(was.Traffic, r.Traffic) && r.Violations >= was.Violations && r.Shed >= was.Shed && r.Denied >= was.Denied && r.Daemon >= was.Daemon {
			l.over = max(l.over, over)
			per := func(now, then api.Count) rates {
				return rates{float64(now.Packets-then.Packets) / over.Seconds(), float64(now.Bytes-then.Bytes) / over.Seconds()}
			}
			b.sent, b.received = per(r.Traffic.Sent, was.Traffic.Sent), per(r.Traffic.Received, was.Traffic.Received)
			b.refused = float64(r.Violations-was.Violations) / over.Seconds()
			b.shed, b.denied = float64(r.Shed-was.Shed)/over.Seconds(), float64(r.Denied-was.Denied)/over.Seconds()
			b.daemon = float64(r.Daemon-was.Daemon) / over.Seconds()
		}
		if b.active() {
			l.active++
		}
		l.sent, l.received, l.refused = l.sent.plus(b.sent), l.received.plus(b.received), l.refused+b.refused
		l.shed, l.denied, l.daemon = l.shed+b.shed, l.denied+b.denied, l.daemon+b.daemon
		l.all = append(l.all, b)
	}
	return l
}

func fallen(then, now api.Traffic) bool {
	return now.Sent.Packets < then.Sent.Packets || now.Sent.Bytes < then.Sent.Bytes ||
		now.Received.Packets < then.Received.Packets || now.Received.Bytes < then.Received.Bytes
}

// order sorts a look; equal ones come by name, then by key, so that no line jumps.
func (l *look) order(by string) {
	compare := tops[slices.Index(topNames(), by)].compare
	slices.SortFunc(l.all, func(a, b busy) int {
		if c := compare(&a, &b); c != 0 {
			return c
		}
		return cmp.Or(words.Natural(a.row.Name, b.row.Name), strings.Compare(a.row.ContainerID, b.row.ContainerID),
			strings.Compare(a.row.Interface, b.row.Interface))
	})
}

// run looks until the context ends, or it has looked often enough.
func (t *topping) run(ctx context.Context, client *api.Client, w io.Writer) error {
	if t.screen {
		fmt.Fprint(w, "\x1b[?1049h\x1b[?25l")
		defer fmt.Fprint(w, "\x1b[?25h\x1b[?1049l")
		fmt.Fprintf(w, "\x1b[Hmeasuring for %v …\x1b[J", t.every)
	}
	began := time.Now()
	before, err := t.counters(ctx, client)
	for looks := 0; err == nil && (t.count == 0 || looks < t.count); {
		if !rest(ctx, max(t.every, restFactor*time.Since(began))) { // what reading took
			return nil
		}
		began = time.Now()
		rows, wrong := client.Rows(ctx, t.filter)
		switch {
		case ctx.Err() != nil:
			return nil
		case wrong != nil && !t.screen:
			return wrong
		case wrong != nil: // a daemon that is restarted is waited for
			fmt.Fprintf(w, "\x1b[H%v\x1b[K\n", firstLine(wrong))
			continue
		}
		l := between(before, rows)
		l.order(t.sort)
		before = index(rows)
		looks++
		err = t.show(w, &l)
	}
	return quiet(err)
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// counters are those to compare with.
func (t *topping) counters(ctx context.Context, client *api.Client) (map[api.Key]counted, error) {
	rows, err := client.Rows(ctx, t.filter)
	if err != nil {
		return nil, err
	}
	if len(rows) > 0 && !slices.ContainsFunc(rows, func(r api.Row) bool { return r.Counted }) {
		return nil, errors.New("packets are not counted by workload: say metrics: {per_workload: true} in natlessd's " +
			"configuration, and restart it")
	}
	return index(rows), nil
}

// counted is what is remembered of a row.
type counted struct {
	api.Traffic
	Violations uint64
	Shed       uint64
	Denied     uint64
	Daemon     uint64
	Clock      time.Duration
}

func index(rows []api.Row) map[api.Key]counted {
	all := make(map[api.Key]counted, len(rows))
	for i := range rows {
		r := &rows[i]
		all[r.Key] = counted{r.Traffic, r.Violations, r.Shed, r.Denied, r.Daemon, r.Clock}
	}
	return all
}

func (t *topping) show(w io.Writer, l *look) error {
	if t.json {
		return t.showJSON(w, l)
	}
	shown := l.all
	if !t.idle {
		shown = slices.DeleteFunc(slices.Clone(shown), func(b busy) bool { return !b.active() })
	}
	most := len(shown)
	if _, lines := table.Size(w); t.screen && lines > 0 {
		const others = 5 // the first line, the header, the total, and what there is no room for
		most = min(most, max(lines-others, 1))
	}
	if t.limit > 0 {
		most = min(most, t.limit)
	}
	var b strings.Builder
	text := &screen{Builder: &b}
	text.columns, text.lines = table.Size(w)
	table.Sentence(text, fmt.Sprintf("%s  %s, %d with traffic, in %.1f s", l.at.Format(time.TimeOnly), words.Count(len(l.all), "workload"),
		l.active, l.over.Seconds()))
	rows := [][]string{topRow("total", "", "", l.sent, l.received, l.daemon, l.refused, l.denied, l.shed)}
	for i := range shown[:most] {
		a := &shown[i]
		rows = append(rows, topRow(cmp.Or(a.row.Name, short(a.row.Key)), a.row.Address.String(), a.row.Ports, a.sent, a.received, a.daemon, a.refused, a.denied, a.shed))
	}
	if err := table.Write(text, "", topColumns, rows); err != nil {
		return err
	}
	if t.screen {
		_, err := fmt.Fprint(w, "\x1b[H"+strings.ReplaceAll(b.String(), "\n", "\x1b[K\n")+"\x1b[J")
		return err
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

// screen is text for a terminal.
type screen struct {
	*strings.Builder
	columns, lines int
}

func (s *screen) Size() (columns, lines int) { return s.columns, s.lines }

var topColumns = []table.Column{{Head: "NAME"}, {Head: "ADDRESS", Leave: 3}, {Head: "PORTS", Leave: 4}, {Head: "SENT b/s", Right: true},
	{Head: "PKT/s", Right: true}, {Head: "RECV b/s", Right: true}, {Head: "PKT/s", Right: true}, {Head: "DAEMON", Right: true, Leave: 1},
	{Head: "REFUSED", Right: true, Leave: 2}, {Head: "DENIED", Right: true}, {Head: "SHED", Right: true}}

func topRow(name, address, ports string, sent, received rates, more ...float64) []string {
	row := []string{name, address, ports, scaled(8 * sent.Bytes), scaled(sent.Packets), scaled(8 * received.Bytes), scaled(received.Packets)}
	for _, n := range more {
		row = append(row, scaled(n))
	}
	return row
}

// topJSON is a look for programs.
type topJSON struct {
	At        time.Time     `json:"at"`
	Seconds   float64       `json:"seconds"` // over which it was counted
	Workloads []topWorkload `json:"workloads"`
	Total     topTotal      `json:"total"` // of all that match, whatever --limit
}

type topTotal struct {
	Workloads int     `json:"workloads"`
	Active    int     `json:"active"`
	Sent      rates   `json:"sent"`
	Received  rates   `json:"received"`
	Refused   float64 `json:"refused_per_second"`
	Shed      float64 `json:"shed_per_second"`
	Denied    float64 `json:"denied_per_second"`
	Daemon    float64 `json:"daemon_packets_per_second"`
}

type topWorkload struct {
	who
	Sent     rates   `json:"sent"`
	Received rates   `json:"received"`
	Refused  float64 `json:"refused_per_second"`
	Shed     float64 `json:"shed_per_second"`
	Denied   float64 `json:"denied_per_second"`
	Daemon   float64 `json:"daemon_packets_per_second"`
}

func (t *topping) showJSON(w io.Writer, l *look) error {
	out := topJSON{At: l.at, Seconds: l.over.Seconds(), Workloads: []topWorkload{},
		Total: topTotal{len(l.all), l.active, l.sent, l.received, l.refused, l.shed, l.denied, l.daemon}}
	for i := range l.all {
		if t.limit > 0 && i == t.limit {
			break
		}
		b := &l.all[i]
		out.Workloads = append(out.Workloads, topWorkload{whoOf(b.row), b.sent, b.received, b.refused, b.shed, b.denied, b.daemon})
	}
	if t.once {
		return table.JSON(w, out)
	}
	return json.NewEncoder(w).Encode(out)
}
