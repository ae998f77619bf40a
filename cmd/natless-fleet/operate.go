package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/internal/cli"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// word writes an operator's word into an object, until nobody was faster.
func word[S, T any](ctx context.Context, s fleet.Store, k fleet.Kind, name string, f func(*S)) error {
	for range 20 {
		o, err := fleet.Get[S, T](ctx, s, k, name)
		if err != nil {
			return err
		}
		f(&o.Spec)
		if _, err = fleet.Update(ctx, s, k, o); !errors.Is(err, fleet.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%s %s is changed by others all the time: try again", k, name)
}

// missing says of an object that there is not what there is.
func missing(err error, k fleet.Kind, name string) error {
	if errors.Is(err, fleet.ErrNotFound) {
		return unknown(k, name)
	}
	return err
}

// change writes an operator's word into a host, and says what comes of it.
func change(ctx context.Context, out io.Writer, s fleet.Store, name, says string, f func(*fleet.HostSpec)) error {
	if err := word[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts, name, f); err != nil {
		return missing(err, fleet.Hosts, name)
	}
	_, err := fmt.Fprintf(out, "%s %s\n", name, says)
	return err
}

// goodName is what Kubernetes takes for a name. With etcd as well, one that has it can move
// to the other store, and is no part of a key but the last.
var goodName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

func wrongName(what, name string, most int) error {
	if goodName.MatchString(name) && len(name) <= most {
		return nil
	}
	return cli.Misuse("%q is no name of a %s: write at most %d small letters, digits, - and .", name, what, most)
}

func newPool(o *options) *cobra.Command {
	var length, most int
	c := &cobra.Command{
		Use:   "pool NAME PREFIX...",
		Short: "Say which addresses a pool has",
		Long: `Say which addresses a pool has, all of them. Of those that it does not have any more nothing
is lent, and what hosts have of them comes back as their workloads go: so a pool is
renumbered. natless-fleet blocks shows who has something of it.`,
		Example: `  natless-fleet pool lent 198.51.100.0/24
  natless-fleet pool lent 198.51.100.0/24 203.0.113.0/25 --max-blocks-per-host 8`,
		Args:              cli.Arguments(2, -1),
		ValidArgsFunction: o.complete(fleet.Pools, 1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			spec := fleet.PoolSpec{IPv4: args[1:], BlockLength: length, MaxBlocksPerHost: most}
			if reason := spec.Wrong(); reason != "" {
				return cli.Misuse("%s", reason)
			}
			if err := putPool(ctx, s, args[0], spec); err != nil {
				return err
			}
			_, err := fmt.Fprintf(out, "pool %s has %s, in blocks of /%d\n", args[0], strings.Join(spec.IPv4, ", "), length)
			return err
		}),
	}
	c.Flags().IntVar(&length, "block-length", 32, "prefix `length` of a block")
	c.Flags().IntVar(&most, "max-blocks-per-host", 0, "how `many` blocks a host may have; 0: as many as it wants")
	return c
}

func putPool(ctx context.Context, s fleet.Store, name string, spec fleet.PoolSpec) error {
	p, err := fleet.Get[fleet.PoolSpec, fleet.PoolStatus](ctx, s, fleet.Pools, name)
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		if err := wrongName("pool", name, 63); err != nil {
			return err
		}
		_, err = fleet.Create(ctx, s, fleet.Pools, fleet.Pool{Name: name, Spec: spec, Finalizers: []string{fleet.Finalizer}})
		return err
	case err != nil:
		return err
	case p.Spec.BlockLength != spec.BlockLength:
		return fmt.Errorf("pool %s has blocks of length %d: another length is another pool", name, p.Spec.BlockLength)
	case p.Deleting:
		return fmt.Errorf("pool %s is deleted, and goes when nobody has anything of it", name)
	}
	p.Spec = spec
	_, err = fleet.Update(ctx, s, fleet.Pools, p)
	return err
}

func newHost(o *options) *cobra.Command {
	var fabric string
	c := &cobra.Command{
		Use:   "host NAME --fabric PREFIX",
		Short: "Say which prefix of an IPv6-only fabric leads to a host",
		Long: `Say which prefix of 96 bits of an IPv6-only fabric leads to a host. Relays lead the host's
blocks there, each to the addresses that end with the block's own. Blocks that the host has
already stay as they are: drain it first to have all of them moved. "" says that the host has
IPv4, and that its blocks are routed to it.`,
		Example:           `  natless-fleet host web1 --fabric 2001:db8:0:7::/96`,
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.complete(fleet.Hosts, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("fabric") {
				return cli.Misuse("--fabric: which prefix leads to the host?")
			}
			if wrong := fleet.WrongFabric(fabric); fabric != "" && wrong != "" {
				return cli.Misuse("--fabric: %s", wrong)
			}
			return o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
				return putFabric(ctx, out, s, args[0], fabric)
			})(c, args)
		},
	}
	c.Flags().StringVar(&fabric, "fabric", "", "`prefix` that leads to the host, such as 2001:db8:0:7::/96")
	return c
}

func putFabric(ctx context.Context, out io.Writer, s fleet.Store, name, fabric string) error {
	err := word[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts, name, func(h *fleet.HostSpec) { h.Fabric = fabric })
	if errors.Is(err, fleet.ErrNotFound) {
		if err := wrongName("host", name, 253); err != nil {
			return err
		}
		_, err = fleet.Create(ctx, s, fleet.Hosts, fleet.Host{Name: name, Spec: fleet.HostSpec{Fabric: fabric}, Finalizers: []string{fleet.Finalizer}})
	}
	if err != nil {
		return err
	}
	says := "relays lead new blocks of host %s to %s\n"
	if fabric == "" {
		says = "new blocks of host %s are routed to it%s\n"
	}
	_, err = fmt.Fprintf(out, says, name, fabric)
	return err
}

func newDrain(o *options) *cobra.Command {
	var end bool
	c := &cobra.Command{
		Use:               "drain HOST",
		Short:             "Have a host give back all that it has, as its workloads go",
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.complete(fleet.Hosts, 1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			says := "drains: natless-fleet hosts " + args[0] + " says when all is given back"
			if end {
				says = "is lent to again"
			}
			return change(ctx, out, s, args[0], says, func(h *fleet.HostSpec) { h.Drain = !end })
		}),
	}
	c.Flags().BoolVar(&end, "end", false, "lend to it again")
	return c
}

func newFence(o *options) *cobra.Command {
	var end, off, relay bool
	c := &cobra.Command{
		Use:   "fence HOST --it-is-off",
		Short: "Lend to others what a dead host has, or wait for a dead relay no longer",
		Long: `Lend to others what a dead host has. Say so only of a host that is switched off, or cut
from the network for good: one that lives goes on using its addresses, which others then
have, too, and nothing here can know. Relays lead nowhere what it had before another has it.
When it is booted again it uses nothing before it has heard of this, and gives up what it had.

With --relay it is a relay that is off: blocks wait for its acknowledgement no longer.
End that only when it has been booted since.`,
		Example: `  natless-fleet fence web1 --it-is-off
  natless-fleet fence --relay east --it-is-off
  natless-fleet fence web1 --end`,
		Args:              cli.Arguments(1, 1),
		ValidArgsFunction: o.complete(fleet.Hosts, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if !end && !off {
				return cli.Misuse("--it-is-off: say that it is switched off, or cut from the network")
			}
			return o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
				return fence(ctx, out, s, args[0], relay, end)
			})(c, args)
		},
	}
	c.Flags().BoolVar(&off, "it-is-off", false, "it is switched off, or cut from the network for good")
	c.Flags().BoolVar(&end, "end", false, "it is back: lend to it again")
	c.Flags().BoolVar(&relay, "relay", false, "it is a relay, not a host")
	return c
}

func fence(ctx context.Context, out io.Writer, s fleet.Store, name string, relay, end bool) error {
	says := "is fenced: what it had is lent to others"
	switch {
	case end:
		says = "is fenced no longer"
	case relay:
		says = "is fenced: nobody waits for it"
	}
	if !relay {
		return change(ctx, out, s, name, says, func(h *fleet.HostSpec) { h.Fenced = !end })
	}
	if err := word[fleet.RelaySpec, fleet.RelayStatus](ctx, s, fleet.Relays, name, func(r *fleet.RelaySpec) { r.Fenced = !end }); err != nil {
		return missing(err, fleet.Relays, name)
	}
	_, err := fmt.Fprintf(out, "%s %s\n", name, says)
	return err
}

func newRevoke(o *options) *cobra.Command {
	var end bool
	c := &cobra.Command{
		Use:   "revoke HOST BLOCK...",
		Short: "Have a host give up blocks at once, whoever has something of them",
		Long: `Have a host give up blocks at once: its workloads lose what they have of them. The blocks
rest, and are lent to nobody, until --end.`,
		Example:           `  natless-fleet revoke web1 198.51.100.8/32`,
		Args:              cli.Arguments(2, -1),
		ValidArgsFunction: o.complete(fleet.Hosts, 1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			for _, b := range args[1:] {
				if p, err := netip.ParsePrefix(b); err != nil || p.String() != b {
					return cli.Misuse("%q is not a block such as 198.51.100.8/32", b)
				}
			}
			says := "is to give up " + strings.Join(args[1:], ", ")
			if end {
				says = "may be lent again " + strings.Join(args[1:], ", ")
			}
			return change(ctx, out, s, args[0], says, func(h *fleet.HostSpec) {
				h.Revoke = slices.DeleteFunc(h.Revoke, func(b string) bool { return slices.Contains(args[1:], b) })
				if !end {
					h.Revoke = append(h.Revoke, args[1:]...)
				}
			})
		}),
	}
	c.Flags().BoolVar(&end, "end", false, "they may be lent again")
	return c
}

func newFollow(o *options) *cobra.Command {
	every := false
	c := &cobra.Command{
		Use:   "follow RELAY... | --all",
		Short: "Have relays follow a view that they refuse, since it lacks much or is older",
		Long: `Have relays follow what they refuse: that blocks are gone which they have not seen end, since
somebody has deleted them by hand or the relay was away for good; or that the view is older
than what they go by, as after the store was restored from a backup. Look first whether it
is right (natless-fleet relays). The word is about no more blocks than are missing now.`,
		ValidArgsFunction: o.complete(fleet.Relays, -1),
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			if every == (len(args) > 0) {
				return cli.Misuse("which relays? Name them, or say --all")
			}
			relays, err := named[fleet.RelaySpec, fleet.RelayStatus](ctx, s, fleet.Relays, args)
			if err != nil {
				return err
			}
			return follow(ctx, out, s, relays)
		}),
	}
	c.Flags().BoolVar(&every, "all", false, "all relays that refuse something")
	return c
}

func follow(ctx context.Context, out io.Writer, s fleet.Store, relays []fleet.Relay) error {
	for _, r := range relays {
		no := r.Status.Refused
		if no == nil {
			fmt.Fprintf(out, "%s refuses nothing\n", r.Name)
			continue
		}
		said := fleet.Follow{Epoch: no.Epoch, Lacks: no.Lacks}
		if r.Spec.Follow == nil || *r.Spec.Follow != said {
			err := word[fleet.RelaySpec, fleet.RelayStatus](ctx, s, fleet.Relays, r.Name, func(r *fleet.RelaySpec) { r.Follow = &said })
			if err != nil {
				return missing(err, fleet.Relays, r.Name)
			}
		}
		fmt.Fprintf(out, "%s is to follow, though %d of %d blocks are missing: %s\n", r.Name, no.Lacks, no.Of, no.Why)
	}
	return nil
}

func newDelete(o *options) *cobra.Command {
	kinds := map[string]fleet.Kind{"pool": fleet.Pools, "host": fleet.Hosts, "relay": fleet.Relays, "block": fleet.Blocks}
	return &cobra.Command{
		Use:   "delete pool|host|relay|block NAME",
		Short: "Delete an object, when nothing hangs on it any more",
		Long: `Delete an object. A host drains and goes when it has given back all that it has, a pool when
nobody has anything of it, a block (by its prefix) when its workloads are gone, and a relay
when an operator has said that it is off (fence --relay). Stop the agent of a host or a relay
then: with etcd it makes its object anew.`,
		Example: `  natless-fleet delete host web1
  natless-fleet delete block 198.51.100.8/32`,
		Args: cli.Arguments(2, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []cobra.Completion{"pool", "host", "relay", "block"}, cobra.ShellCompDirectiveNoFileComp
			}
			if k := kinds[args[0]]; k != "" && k != fleet.Blocks {
				return o.complete(k, 2)(c, args, begun)
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: o.with(func(ctx context.Context, out io.Writer, s fleet.Store, args []string) error {
			kind, known := kinds[args[0]]
			if !known {
				return cli.Misuse("%q: write pool, host, relay or block", args[0])
			}
			return remove(ctx, out, s, kind, args[1])
		}),
	}
}

func remove(ctx context.Context, out io.Writer, s fleet.Store, kind fleet.Kind, said string) error {
	name := said
	if kind == fleet.Blocks {
		name = fleet.NameOf(said)
	}
	for range 20 {
		is, err := s.Get(ctx, kind, name)
		if err != nil {
			return missing(err, kind, said)
		}
		switch err = s.Delete(ctx, is); {
		case err == nil:
			_, err = fmt.Fprintf(out, "%s goes when nothing hangs on it any more\n", said)
			return err
		case !errors.Is(err, fleet.ErrConflict):
			return err
		}
	}
	return fmt.Errorf("%s %s is changed by others all the time: try again", kind, said)
}
