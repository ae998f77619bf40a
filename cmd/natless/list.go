package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config/api"
)

// listing is what a list of workloads was asked for.
type listing struct {
	filter  api.Filter
	address string
	sort    string
	watch   bool
}

func newWorkloadsList(o *options) *cobra.Command {
	var l listing
	c := &cobra.Command{
		Use:   "list",
		Short: "List workloads and what they were assigned",
		Long: `List workloads and what they were assigned. In --name and --network, * is any text
and ? any character; put them in quotes.

With --watch a line follows for each workload that has come (+), has got something
else (~) or has gone (-), until Ctrl-C ends it; with -o json a line of JSON each.`,
		Example: `  natless workloads --name 'default/*' --sort -age
  natless workloads --address 198.51.100.0/24
  natless workloads --watch`,
		Args: cli.Arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := l.parse(); err != nil {
				return err
			}
			if l.watch {
				return l.follow(c.Context(), o, c.OutOrStdout())
			}
			if o.output == "json" {
				return l.printJSON(c, o)
			}
			rows, err := o.client().Rows(c.Context(), l.filter)
			if err != nil {
				return err
			}
			l.order(rows)
			return l.print(c.OutOrStdout(), rows, time.Now())
		},
	}
	l.filters(c, o)
	f := c.Flags()
	f.StringVar(&l.sort, "sort", "", "sort by this `column`: "+strings.Join(sortNames(), ", ")+"; with a - before it the other way round")
	f.BoolVarP(&l.watch, "watch", "w", false, "go on, and show what changes")
	c.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(sortNames(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// filters are the flags that say which workloads.
func (l *listing) filters(c *cobra.Command, o *options) {
	f := c.Flags()
	f.StringVar(&l.filter.Name, "name", "", "only those of this `name`, in which * is any text")
	f.StringVar(&l.filter.Network, "network", "", "only those of this `network`, in which * is any text")
	f.StringVar(&l.filter.Pool, "pool", "", "only those of this `pool`")
	f.StringVar(&l.address, "address", "", "only those with this IPv4 or IPv6 `address`, or in this ADDRESS/LEN")
	c.RegisterFlagCompletionFunc("pool", o.completePool)
	c.RegisterFlagCompletionFunc("name", o.completeName)
	c.RegisterFlagCompletionFunc("network", o.completeNetwork)
	c.RegisterFlagCompletionFunc("address", nothing)
}

func (l *listing) parse() error {
	if l.sort != "" && comparison(l.sort) == nil {
		return cli.Misuse("--sort %s: is none of %s", l.sort, strings.Join(sortNames(), ", "))
	}
	return l.parseFilter()
}

func (l *listing) parseFilter() (err error) {
	if l.address != "" {
		if l.filter.Address, err = netip.ParseAddr(l.address); err != nil {
			if l.filter.Within, err = netip.ParsePrefix(l.address); err != nil {
				return cli.Misuse("--address %s: is neither an address nor ADDRESS/LEN", l.address)
			}
		}
	}
	return nil
}

// sortable are what rows can be sorted by. Of equal ones the key decides.
var sortable = []struct {
	name    string
	compare func(a, b *api.Row) int
}{
	{"name", func(a, b *api.Row) int { return words.Natural(a.Name, b.Name) }},
	{"workload", func(*api.Row, *api.Row) int { return 0 }},
	{"network", func(a, b *api.Row) int { return words.Natural(a.Network, b.Network) }},
	{"ipv6", func(a, b *api.Row) int { return address(a.IPv6).Compare(address(b.IPv6)) }},
	{"address", func(a, b *api.Row) int { return cmp.Or(a.Address.Compare(b.Address), words.Natural(a.Ports, b.Ports)) }},
	{"pool", func(a, b *api.Row) int { return words.Natural(a.Pool, b.Pool) }},
	{"age", func(a, b *api.Row) int { return b.Since.Compare(a.Since) }},
	{"violations", func(a, b *api.Row) int { return cmp.Compare(a.Violations, b.Violations) }},
	{"sent", func(a, b *api.Row) int { return cmp.Compare(a.Traffic.Sent.Bytes, b.Traffic.Sent.Bytes) }},
	{"received", func(a, b *api.Row) int { return cmp.Compare(a.Traffic.Received.Bytes, b.Traffic.Received.Bytes) }},
	{"traffic", func(a, b *api.Row) int { return cmp.Compare(bytesOf(a), bytesOf(b)) }},
}

func sortNames() (names []string) {
	for _, c := range sortable {
		names = append(names, c.name)
	}
	return names
}

func comparison(words string) func(a, b *api.Row) int {
	name, back := strings.CutPrefix(words, "-")
	for _, c := range sortable {
		switch {
		case c.name != name:
		case back:
			return func(a, b *api.Row) int { return c.compare(b, a) }
		default:
			return c.compare
		}
	}
	return nil
}

// order sorts rows, which come sorted by key.
func (l *listing) order(rows []api.Row) {
	compare := comparison(l.sort)
	if compare == nil {
		return
	}
	sorted := make([]*api.Row, len(rows)) // a row is large to move
	for i := range rows {
		sorted[i] = &rows[i]
	}
	slices.SortFunc(sorted, func(a, b *api.Row) int {
		if c := compare(a, b); c != 0 {
			return c
		}
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.Interface, b.Interface))
	})
	in := make([]api.Row, len(rows))
	for i, r := range sorted {
		in[i] = *r
	}
	copy(rows, in)
}

func address(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

func bytesOf(r *api.Row) uint64 { return r.Traffic.Sent.Bytes + r.Traffic.Received.Bytes }

var workloadColumns = []table.Column{{Head: "NAME"}, {Head: "WORKLOAD", Leave: 9}, {Head: "IPV6", Leave: 8}, {Head: "ADDRESS"}, {Head: "PORTS"},
	{Head: "POOL", Leave: 7}, {Head: "AGE", Leave: 1}}

// insideColumn is there where some workload has its IPv4 inside.
var insideColumn = table.Column{Head: "IPV4", Leave: 4}

// trafficColumns are there where packets are counted by workload.
var trafficColumns = []table.Column{{Head: "SENT", Right: true}, {Head: "PKTS", Right: true, Leave: 6}, {Head: "RECEIVED", Right: true},
	{Head: "PKTS", Right: true, Leave: 5}}

func rowWords(r *api.Row, now time.Time, insiders, counted bool) []string {
	words := make([]string, 0, len(workloadColumns)+1+len(trafficColumns))
	words = append(words, cmp.Or(r.Name, "-"), short(r.Key), r.IPv6, r.Address.String(), r.Ports, r.Pool, age(now, r.Since))
	if insiders {
		words = append(words, wayInRow(r))
	}
	if counted {
		for _, n := range [...]api.Count{r.Traffic.Sent, r.Traffic.Received} {
			words = append(words, scaled(float64(n.Bytes))+"B", scaled(float64(n.Packets)))
		}
	}
	return words
}

// wayInRow is how a workload has its IPv4, and what is wrong with that.
func wayInRow(r *api.Row) string {
	switch r.Inside {
	case "":
		return "prefix"
	case r.Address.String():
		return "inside"
	}
	return "inside, still " + r.Inside
}

func (l *listing) print(w io.Writer, all []api.Row, now time.Time) error {
	counted := slices.ContainsFunc(all, func(r api.Row) bool { return r.Counted })
	insiders := slices.ContainsFunc(all, func(r api.Row) bool { return r.Inside != "" })
	columns := workloadColumns
	if insiders {
		columns = append(slices.Clone(columns), insideColumn)
	}
	if counted {
		columns = slices.Concat(columns, trafficColumns)
	}
	rows := make([][]string, len(all))
	for i := range all {
		rows[i] = rowWords(&all[i], now, insiders, counted)
	}
	return table.Write(w, l.none(), columns, rows)
}

// none is what to say where there is nothing to list.
func (l *listing) none() string {
	if l.filter == (api.Filter{}) {
		return "no workload has an assignment"
	}
	return "no workload is like that: `natless workloads` lists all"
}

func (l *listing) printJSON(c *cobra.Command, o *options) error {
	if l.sort == "" {
		return o.client().CopyList(c.Context(), l.filter, c.OutOrStdout())
	}
	all, err := o.client().List(c.Context(), l.filter)
	if err != nil {
		return err
	}
	type both struct {
		api.Workload
		row api.Row
	}
	list := make([]both, len(all))
	for i := range all {
		list[i] = both{all[i], rowOf(&all[i])}
	}
	compare := comparison(l.sort)
	slices.SortStableFunc(list, func(a, b both) int { return compare(&a.row, &b.row) })
	sorted := make([]api.Workload, len(list))
	for i := range list {
		sorted[i] = list[i].Workload
	}
	return table.JSON(c.OutOrStdout(), sorted)
}

func rowOf(w *api.Workload) api.Row {
	r := api.Row{Key: w.Key, Name: w.Request.Name, Network: w.Request.Network, Address: w.Address, Ports: api.PortsText(w.Ports), Pool: w.Pool,
		Since: w.Since, Violations: w.Violations, Shed: w.Shed, Denied: w.Denied, Daemon: w.Daemon, Counted: w.Traffic != nil}
	if r.Counted {
		r.Traffic = *w.Traffic
	}
	if len(w.Request.IPv6) > 0 {
		r.IPv6 = w.Request.IPv6[0].String()
	}
	if w.Inside != nil {
		r.Inside = w.Inside.Address.String()
	}
	return r
}

// short is a key with as much of the container's id as people read.
func short(k api.Key) string {
	id := k.ContainerID
	if len(id) > 12 {
		id = id[:12]
	}
	return fmt.Sprintf("%s/%s", id, k.Interface)
}
