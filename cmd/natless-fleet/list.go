package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/internal/table"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// unknown says that there is nothing of a name.
func unknown(kind fleet.Kind, name string) error {
	one := strings.TrimSuffix(string(kind), "s")
	return fmt.Errorf("there is no %s %s: natless-fleet %s lists what there is", one, name, kind)
}

// named reads the objects of some names, or all.
func named[S, T any](ctx context.Context, s fleet.Store, k fleet.Kind, names []string) ([]fleet.Of[S, T], error) {
	if len(names) == 0 {
		return all[S, T](ctx, s, k)
	}
	var list []fleet.Of[S, T]
	for _, name := range names {
		o, err := fleet.Get[S, T](ctx, s, k, name)
		if errors.Is(err, fleet.ErrNotFound) {
			return nil, unknown(k, name)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, o)
	}
	return list, nil
}

func newPools(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "pools [NAME...]",
		Short: "List pools: how many blocks they have, and how many are lent and free",
		Long: `List pools: how many blocks they have, how many of them are lent and free, to how many hosts,
for how many further workloads these have room (HEADROOM), and how many want more than there is.`,
		Example: `  natless-fleet pools
  natless-fleet pools lent -o json`,
		ValidArgsFunction: o.complete(fleet.Pools, -1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			pools, err := named[fleet.PoolSpec, fleet.PoolStatus](ctx, s, fleet.Pools, args)
			if err != nil || o.output == "json" {
				return first(err, o.json(out, err, pools))
			}
			w, err := read(ctx, s, fleet.Hosts)
			if err != nil {
				return err
			}
			w.Pools = pools
			return w.printPools(out)
		}),
	}
}

// json writes an answer, if there is one.
func (o *options) json(out io.Writer, err error, answer any) error {
	if err != nil {
		return nil
	}
	return table.JSON(out, answer)
}

func newHosts(o *options) *cobra.Command {
	var pool string
	var notReady bool
	c := &cobra.Command{
		Use:   "hosts [NAME...]",
		Short: "List hosts: what they are lent, hold and use, and for how much more they have room",
		Long: `List hosts: how many blocks they are lent, hold and use, for how many further workloads they
have room (HEADROOM), how many they want room for besides, and what is wrong with them.
HEADROOM is as of when the host's agent last had something to say: it writes when blocks
come or go, not for each workload. natless blocks on the host has it as of now.`,
		Example: `  natless-fleet hosts
  natless-fleet hosts --not-ready
  natless-fleet hosts web1 web2 -o json`,
		ValidArgsFunction: o.complete(fleet.Hosts, -1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			hosts, err := named[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts, args)
			if err != nil {
				return err
			}
			some := slices.DeleteFunc(hosts, func(h fleet.Host) bool {
				return notReady && plain(h) || pool != "" && !slices.ContainsFunc(h.Spec.Blocks, func(b fleet.HostBlock) bool { return b.Pool == pool }) &&
					!slices.ContainsFunc(h.Status.Pools, func(p fleet.HostPool) bool { return p.Pool == pool })
			})
			switch {
			case o.output == "json":
				return table.JSON(out, some)
			case len(some) == 0 && (notReady || pool != ""):
				return table.Sentence(out, "no host is like that: natless-fleet hosts lists all")
			}
			return printHosts(out, some)
		}),
	}
	c.Flags().StringVar(&pool, "pool", "", "those that have, or want, something of this `pool`")
	c.Flags().BoolVar(&notReady, "not-ready", false, "those that an operator should look at")
	c.RegisterFlagCompletionFunc("pool", o.complete(fleet.Pools, -1))
	return c
}

func newRelays(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "relays [NAME...]",
		Short:             "List relays: by how many rules they go, and how they stand",
		Example:           `  natless-fleet relays`,
		ValidArgsFunction: o.complete(fleet.Relays, -1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			relays, err := named[fleet.RelaySpec, fleet.RelayStatus](ctx, s, fleet.Relays, args)
			if err != nil || o.output == "json" {
				return first(err, o.json(out, err, relays))
			}
			return printRelays(out, relays)
		}),
	}
}

// filter says which blocks are wanted.
type filter struct{ host, pool, state, address string }

func newBlocks(o *options) *cobra.Command {
	var f filter
	c := &cobra.Command{
		Use:   "blocks",
		Short: "List blocks: which host has which",
		Long: `List blocks: which host has which, by which loan, and where relays lead them. A block is Lent,
or Reserved while it is looked whether somebody else has any of it, Offered until all relays
go by it, Ended until none does.`,
		Example: `  natless-fleet blocks
  natless-fleet blocks --host web1
  natless-fleet blocks --address 198.51.100.7
  natless-fleet blocks --address 2001:db8:0:7::c633:6407`,
		Args: cli.Arguments(0, 0),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, _ []string) error {
			blocks, err := f.blocks(ctx, s)
			if err != nil || o.output == "json" {
				return first(err, o.json(out, err, blocks))
			}
			return printBlocks(out, f, blocks)
		}),
	}
	c.Flags().StringVar(&f.host, "host", "", "those of this `host`")
	c.Flags().StringVar(&f.pool, "pool", "", "those of this `pool`")
	c.Flags().StringVar(&f.state, "state", "", "those in this `state`: Lent, Reserved, Offered or Ended")
	c.Flags().StringVar(&f.address, "address", "", "the one that has this `address`, IPv4, or IPv6 in the fabric")
	c.RegisterFlagCompletionFunc("host", o.complete(fleet.Hosts, -1))
	c.RegisterFlagCompletionFunc("pool", o.complete(fleet.Pools, -1))
	c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]cobra.Completion{"Lent", "Reserved", "Offered", "Ended"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (f *filter) blocks(ctx context.Context, s fleet.Store) (blocks []fleet.Block, err error) {
	states := []fleet.BlockState{fleet.Lent, fleet.Reserved, fleet.Offered, fleet.Ended}
	i := slices.IndexFunc(states, func(one fleet.BlockState) bool { return strings.EqualFold(string(one), f.state) })
	if f.state != "" && i < 0 {
		return nil, cli.Misuse("--state %s: is none of %v", f.state, states)
	}
	switch {
	case f.address != "":
		a, err := netip.ParseAddr(f.address)
		if err != nil || a.Zone() != "" {
			return nil, cli.Misuse("--address %s: is no address", f.address)
		}
		b, err := blockOf(ctx, s, a.Unmap())
		if err != nil {
			return nil, err
		}
		if blocks = []fleet.Block{}; b != nil {
			blocks = append(blocks, *b)
		}
	default:
		if blocks, err = all[fleet.BlockSpec, fleet.BlockStatus](ctx, s, fleet.Blocks); err != nil {
			return nil, err
		}
	}
	blocks = slices.DeleteFunc(blocks, func(b fleet.Block) bool {
		return f.host != "" && b.Spec.Host != f.host || f.pool != "" && b.Spec.Pool != f.pool || f.state != "" && b.Spec.State != states[i]
	})
	slices.SortFunc(blocks, func(a, b fleet.Block) int { return start(a).Compare(start(b)) })
	return blocks, f.known(ctx, s, blocks)
}

// known is an error where nothing was found of a host or a pool that there is not.
func (f *filter) known(ctx context.Context, s fleet.Store, found []fleet.Block) error {
	for kind, name := range map[fleet.Kind]string{fleet.Hosts: f.host, fleet.Pools: f.pool} {
		if name == "" || len(found) > 0 {
			continue
		}
		if _, err := s.Get(ctx, kind, name); errors.Is(err, fleet.ErrNotFound) {
			return unknown(kind, name)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func start(b fleet.Block) netip.Addr {
	p, _ := netip.ParsePrefix(b.Spec.IPv4)
	return p.Addr()
}

func printBlocks(out io.Writer, f filter, blocks []fleet.Block) error {
	var rows [][]string
	for _, b := range blocks {
		state := string(b.Spec.State)
		for _, c := range b.Status.Conditions {
			if c.Status == "False" {
				state += ": " + c.Message
			}
		}
		if b.Deleting {
			state += ", deleting"
		}
		rows = append(rows, []string{b.Spec.IPv4, b.Spec.Pool, b.Spec.Host, fmt.Sprint(b.Spec.Lease), cmp.Or(b.Spec.IPv6, "-"), state})
	}
	none := "no block is lent"
	if f != (filter{}) {
		none = "no block is like that: natless-fleet blocks lists all"
	}
	return table.Write(out, none, []table.Column{{Head: "BLOCK"}, {Head: "POOL", Leave: 2}, {Head: "HOST"}, {Head: "LEASE", Right: true, Leave: 3},
		{Head: "FABRIC", Leave: 1}, {Head: "STATE"}}, rows)
}

// room is for how much a host has room in a pool.
type room struct {
	Pool     string `json:"pool"`
	Host     string `json:"host"`
	Headroom int    `json:"headroom"`
	Wanted   int    `json:"wanted"`
	Blocks   int    `json:"blocks"`
	State    string `json:"state"`
}

func newHeadroom(o *options) *cobra.Command {
	var pool string
	var number int
	c := &cobra.Command{
		Use:   "headroom",
		Short: "Show where addresses run out: pools, and hosts with the least room",
		Long: `Show where addresses run out: how many blocks pools have left, and for how many further
workloads hosts have room, those with the least first, each as of when its agent last had
something to say.`,
		Example: `  natless-fleet headroom
  natless-fleet headroom --pool lent -n 0`,
		Args: cli.Arguments(0, 0),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, _ []string) error {
			w, err := read(ctx, s, fleet.Pools, fleet.Hosts)
			if err != nil {
				return err
			}
			if pool != "" {
				w.Pools = slices.DeleteFunc(w.Pools, func(p fleet.Pool) bool { return p.Name != pool })
				if len(w.Pools) == 0 {
					return unknown(fleet.Pools, pool)
				}
			}
			rooms := w.rooms(pool)
			if o.output == "json" {
				return table.JSON(out, rooms)
			}
			return printHeadroom(out, w, rooms, number)
		}),
	}
	c.Flags().StringVar(&pool, "pool", "", "of this `pool` alone")
	c.Flags().IntVarP(&number, "number", "n", 20, "so `many` hosts; 0: all")
	c.RegisterFlagCompletionFunc("pool", o.complete(fleet.Pools, -1))
	return c
}

// rooms is the room of all hosts, the least first.
func (w world) rooms(pool string) []room {
	rooms := []room{}
	for _, h := range w.Hosts {
		for _, p := range h.Status.Pools {
			if pool != "" && p.Pool != pool {
				continue
			}
			r := room{Pool: p.Pool, Host: h.Name, Headroom: p.Headroom, Wanted: p.Wanted, State: stateOf(h)}
			for _, b := range h.Status.Held {
				if b.Pool == p.Pool {
					r.Blocks++
				}
			}
			rooms = append(rooms, r)
		}
	}
	slices.SortStableFunc(rooms, func(a, b room) int {
		return cmp.Or(cmp.Compare(a.Headroom, b.Headroom), cmp.Compare(b.Wanted, a.Wanted), words.Natural(a.Host, b.Host))
	})
	return rooms
}

func printHeadroom(out io.Writer, w world, rooms []room, number int) error {
	if err := w.printPools(out); err != nil {
		return err
	}
	fmt.Fprintln(out)
	rest := 0
	if number > 0 && len(rooms) > number {
		rest, rooms = len(rooms)-number, rooms[:number]
	}
	var rows [][]string
	for _, r := range rooms {
		rows = append(rows, []string{r.Host, r.Pool, fmt.Sprint(r.Headroom), fmt.Sprint(r.Wanted), fmt.Sprint(r.Blocks), r.State})
	}
	err := table.Write(out, "no host has said for how much it has room", []table.Column{{Head: "HOST"}, {Head: "POOL", Leave: 1}, {Head: "HEADROOM", Right: true},
		{Head: "WANTS", Right: true}, {Head: "BLOCKS", Right: true, Leave: 2}, {Head: "STATE"}}, rows)
	if rest > 0 {
		err = first(err, table.Sentence(out, fmt.Sprintf("and %s with as much room or more: -n 0 lists all", words.Count(rest, "host"))))
	}
	return err
}
