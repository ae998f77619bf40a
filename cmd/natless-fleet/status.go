package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// world is all that there is, for people.
type world struct {
	Pools  []fleet.Pool  `json:"pools"`
	Hosts  []fleet.Host  `json:"hosts"`
	Relays []fleet.Relay `json:"relays"`
	Blocks []fleet.Block `json:"blocks"`
}

// all reads the objects of a kind; none are a list all the same.
func all[S, T any](ctx context.Context, s fleet.Store, k fleet.Kind) ([]fleet.Of[S, T], error) {
	list, _, err := fleet.List[S, T](ctx, s, k)
	if list == nil {
		list = []fleet.Of[S, T]{}
	}
	return list, err
}

// read is all that a store has of some kinds.
func read(ctx context.Context, s fleet.Store, kinds ...fleet.Kind) (w world, err error) {
	errs := make([]error, len(kinds))
	var each sync.WaitGroup
	for i, k := range kinds {
		each.Go(func() {
			switch k {
			case fleet.Pools:
				w.Pools, errs[i] = all[fleet.PoolSpec, fleet.PoolStatus](ctx, s, k)
			case fleet.Hosts:
				w.Hosts, errs[i] = all[fleet.HostSpec, fleet.HostStatus](ctx, s, k)
			case fleet.Relays:
				w.Relays, errs[i] = all[fleet.RelaySpec, fleet.RelayStatus](ctx, s, k)
			case fleet.Blocks:
				w.Blocks, errs[i] = all[fleet.BlockSpec, fleet.BlockStatus](ctx, s, k)
			}
		})
	}
	each.Wait()
	return w, first(errs...)
}

// most is how many hosts, or blocks that wait, the status lists: more have commands of
// their own.
const most = 40

func newStatus(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show pools, hosts and relays, and who has how much",
		Long: `Show pools, hosts and relays, who has how much, and what waits for whom. Of more than 40 hosts
those are listed that an operator should look at; natless-fleet hosts lists all.`,
		Example: `  natless-fleet status --etcd https://etcd1:2379
  natless-fleet status -o json`,
		Args: cli.Arguments(0, 0),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, _ []string) error {
			w, err := read(ctx, s, fleet.Pools, fleet.Hosts, fleet.Relays, fleet.Blocks)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return table.JSON(out, w)
			}
			return w.print(out)
		}),
	}
}

func (w world) print(out io.Writer) error {
	if err := w.printPools(out); err != nil {
		return err
	}
	hosts, rest := w.Hosts, 0
	if len(hosts) > most {
		hosts = nil
		for _, h := range w.Hosts {
			if !plain(h) && len(hosts) < most {
				hosts = append(hosts, h)
			}
		}
		rest = len(w.Hosts) - len(hosts)
	}
	fmt.Fprintln(out)
	if len(hosts) > 0 || rest == 0 {
		if err := printHosts(out, hosts); err != nil {
			return err
		}
	}
	if rest > 0 {
		if err := table.Sentence(out, fmt.Sprintf("and %s: natless-fleet hosts lists all, hosts --not-ready those to look at",
			words.Count(rest, "host"))); err != nil {
			return err
		}
	}
	if len(w.Relays) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	if err := printRelays(out, w.Relays); err != nil {
		return err
	}
	return w.printWaiting(out)
}

// printWaiting shows blocks that wait for relays.
func (w world) printWaiting(out io.Writer) error {
	shown, rest := 0, 0
	for _, b := range w.Blocks {
		if b.Spec.State != fleet.Offered && b.Spec.State != fleet.Ended {
			continue
		}
		if shown++; shown > most {
			rest++
			continue
		}
		whom := "the controller"
		if names := fleet.Unacknowledged(b, w.Relays); len(names) > 0 {
			whom = strings.Join(names, ", ")
		}
		if err := table.Sentence(out, fmt.Sprintf("block %s of %s is %s, and waits for %s", b.Spec.IPv4, b.Spec.Host, b.Spec.State, whom)); err != nil {
			return err
		}
	}
	if rest > 0 {
		return table.Sentence(out, fmt.Sprintf("and %s: natless-fleet blocks --state Offered, or Ended", words.Count(rest, "block")))
	}
	return nil
}

func (w world) printPools(out io.Writer) error {
	hosts, room := map[string]int{}, map[string]int{}
	for _, h := range w.Hosts {
		has := map[string]bool{}
		for _, b := range h.Spec.Blocks {
			has[b.Pool] = true
		}
		for pool := range has {
			hosts[pool]++
		}
		for _, p := range h.Status.Pools {
			room[p.Pool] += p.Headroom
		}
	}
	var rows [][]string
	for _, p := range w.Pools {
		rows = append(rows, []string{p.Name, fmt.Sprint(p.Status.Blocks), fmt.Sprint(p.Status.Lent), fmt.Sprint(p.Status.Blocks - p.Status.Lent),
			fmt.Sprint(hosts[p.Name]), fmt.Sprint(room[p.Name]), fmt.Sprint(p.Status.Wanting), stateOfPool(p), strings.Join(p.Spec.IPv4, ", ")})
	}
	number := func(head string, leave int) table.Column { return table.Column{Head: head, Right: true, Leave: leave} }
	return table.Write(out, "there is no pool: natless-fleet pool NAME PREFIX makes one", []table.Column{{Head: "POOL"}, number("BLOCKS", 0), number("LENT", 0),
		number("FREE", 0), number("HOSTS", 2), number("HEADROOM", 1), number("WANTING", 0), {Head: "STATE"}, {Head: "ADDRESSES"}}, rows)
}

func stateOfPool(p fleet.Pool) string {
	state := "lends"
	switch {
	case len(p.Status.Conditions) == 0 && p.Status.Blocks == 0 && p.Status.Reason == "":
		state = "no controller has seen it"
	case p.Status.Reason != "":
		state = "lends nothing: " + p.Status.Reason
	case p.Status.Wanting > 0 && p.Status.Lent >= p.Status.Blocks:
		state = "exhausted"
	}
	if p.Deleting {
		state += ", deleting"
	}
	return state
}

func printHosts(out io.Writer, hosts []fleet.Host) error {
	var rows [][]string
	for _, h := range hosts {
		used, wants, room := 0, 0, 0
		for _, b := range h.Status.Held {
			if b.Used {
				used++
			}
		}
		for _, p := range h.Status.Pools {
			wants, room = wants+p.Wanted, room+p.Headroom
		}
		rows = append(rows, []string{h.Name, fmt.Sprint(len(h.Spec.Blocks)), fmt.Sprint(len(h.Status.Held)), fmt.Sprint(used), fmt.Sprint(room), fmt.Sprint(wants),
			cmp.Or(h.Spec.Fabric, "-"), stateOf(h)})
	}
	number := func(head string, leave int) table.Column { return table.Column{Head: head, Right: true, Leave: leave} }
	return table.Write(out, "there is no host: natless-fleet agent makes it, on each", []table.Column{{Head: "HOST"}, number("LENT", 0), number("HELD", 2),
		number("IN USE", 1), number("HEADROOM", 0), number("WANTS", 0), {Head: "FABRIC", Leave: 3}, {Head: "STATE"}}, rows)
}

// plain says that there is nothing to look at.
func plain(h fleet.Host) bool { return stateOf(h) == "borrows" }

func stateOf(h fleet.Host) string {
	state := "borrows"
	switch {
	case h.Broken != "":
		return "is lent nothing, as its object is not understood: " + h.Broken
	case h.Spec.Fenced:
		state = "fenced"
	case h.Spec.Drain && len(h.Status.Held) == 0:
		state = "drained"
	case h.Spec.Drain:
		state = "draining"
	case h.Status.Epoch == 0 && h.Status.Machine == "" && h.Status.Pools == nil && h.Status.Held == nil && h.Status.Error == "":
		state = "its agent has never said anything"
	}
	if h.Status.Epoch != h.Spec.Epoch {
		state += fmt.Sprintf(", goes by epoch %d of %d", h.Status.Epoch, h.Spec.Epoch)
	}
	if h.Deleting {
		state += ", deleting"
	}
	if h.Status.Error != "" {
		state += ": " + h.Status.Error
	}
	return state
}

func printRelays(out io.Writer, relays []fleet.Relay) error {
	var rows [][]string
	for _, r := range relays {
		state := cmp.Or(r.Status.State, "has never said anything")
		if r.Broken != "" {
			state = "is waited for, as its object is not understood: " + r.Broken
		}
		if r.Spec.Fenced {
			state = "fenced"
		}
		if r.Deleting {
			state += ", deleting: it goes when it is fenced"
		}
		if r.Status.Error != "" {
			state += ": " + r.Status.Error
		}
		rows = append(rows, []string{r.Name, fmt.Sprint(r.Status.Rules), fmt.Sprint(r.Status.Epoch), cmp.Or(r.Status.Renewed, "never"),
			strings.Join(r.Status.IPv4, ", "), state})
	}
	return table.Write(out, "there is no relay: natless-fleet relay makes it, on each", []table.Column{{Head: "RELAY"}, {Head: "RULES", Right: true},
		{Head: "EPOCH", Right: true, Leave: 2}, {Head: "LAST HEARD", Leave: 1}, {Head: "SERVES", Leave: 3}, {Head: "STATE"}}, rows)
}
