package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// world is all that there is, for people.
type world struct {
	Pools  []fleet.Pool  `json:"pools"`
	Hosts  []fleet.Host  `json:"hosts"`
	Relays []fleet.Relay `json:"relays"`
	Blocks []fleet.Block `json:"blocks"`
}

// read is all that the store has.
func (o *options) read(ctx context.Context) (w world, err error) {
	s, err := o.open()
	if err != nil {
		return w, err
	}
	var errs [4]error
	w.Pools, _, errs[0] = fleet.List[fleet.PoolSpec, fleet.PoolStatus](ctx, s, fleet.Pools)
	w.Hosts, _, errs[1] = fleet.List[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts)
	w.Blocks, _, errs[2] = fleet.List[fleet.BlockSpec, fleet.BlockStatus](ctx, s, fleet.Blocks)
	w.Relays, _, errs[3] = fleet.List[fleet.RelaySpec, fleet.RelayStatus](ctx, s, fleet.Relays)
	return w, errors.Join(errs[:]...)
}

func newStatus(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show pools, hosts and relays, and who has how much",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w, err := o.read(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(w)
			}
			return w.print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, with every block")
	return c
}

func (w world) print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tBLOCKS\tLENT\tWANTING\tADDRESSES")
	for _, p := range w.Pools {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%v", p.Name, p.Status.Blocks, p.Status.Lent, p.Status.Wanting, p.Spec.IPv4)
		if p.Status.Reason != "" {
			fmt.Fprintf(t, "\tnothing is lent: %s", p.Status.Reason)
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintln(t, "\nHOST\tLENT\tHELD\tIN USE\tWANTS\tSTATE")
	for _, h := range w.Hosts {
		used, wants := 0, 0
		for _, b := range h.Status.Held {
			if b.Used {
				used++
			}
		}
		for _, p := range h.Status.Pools {
			wants += p.Wanted
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\n", h.Name, len(h.Spec.Blocks), len(h.Status.Held), used, wants, stateOf(h))
	}
	w.printRelays(t)
	return t.Flush()
}

// printRelays shows relays, and blocks that wait for them.
func (w world) printRelays(out io.Writer) {
	if len(w.Relays) == 0 {
		return
	}
	fmt.Fprintln(out, "\nRELAY\tRULES\tEPOCH\tLAST HEARD\tSTATE")
	for _, r := range w.Relays {
		state := cmp.Or(r.Status.State, "has never said anything")
		if r.Spec.Fenced {
			state = "fenced"
		}
		if r.Status.Error != "" {
			state += ": " + r.Status.Error
		}
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\t%s\n", r.Name, r.Status.Rules, r.Status.Epoch, r.Status.Renewed, state)
	}
	for _, b := range w.Blocks {
		if names := fleet.Unacknowledged(b, w.Relays); b.Spec.State == fleet.Offered || b.Spec.State == fleet.Ended {
			fmt.Fprintf(out, "block %s of %s is %s, and waits for %v\n", b.Spec.IPv4, b.Spec.Host, b.Spec.State, names)
		}
	}
}

func stateOf(h fleet.Host) string {
	state := "borrows"
	switch {
	case h.Spec.Fenced:
		state = "fenced"
	case h.Spec.Drain && len(h.Status.Held) == 0:
		state = "drained"
	case h.Spec.Drain:
		state = "draining"
	}
	if h.Status.Epoch != h.Spec.Epoch {
		state += fmt.Sprintf(", goes by epoch %d of %d", h.Status.Epoch, h.Spec.Epoch)
	}
	if h.Status.Error != "" {
		state += ": " + h.Status.Error
	}
	return state
}

// whois says whose an address is, by loans.
func (w world) whois(out io.Writer, a netip.Addr) (holder string, err error) {
	in := func(prefix string) bool {
		p, err := netip.ParsePrefix(prefix)
		return err == nil && p.Contains(a)
	}
	for _, b := range w.Blocks {
		if !in(b.Spec.IPv4) {
			continue
		}
		held := "which does not hold it yet"
		i := slices.IndexFunc(w.Hosts, func(h fleet.Host) bool { return h.Name == b.Spec.Host })
		if i >= 0 && slices.ContainsFunc(w.Hosts[i].Status.Held, func(h fleet.Held) bool { return h.IPv4 == b.Spec.IPv4 && h.Lease == b.Spec.Lease }) {
			held = "which holds it"
		}
		_, err = fmt.Fprintf(out, "%s is in block %s of pool %s, lent to host %s (lease %d), %s\n", a, b.Spec.IPv4, b.Spec.Pool, b.Spec.Host, b.Spec.Lease, held)
		return b.Spec.Host, err
	}
	for _, p := range w.Pools {
		if slices.ContainsFunc(p.Spec.IPv4, in) {
			_, err = fmt.Fprintf(out, "%s is in pool %s, and lent to nobody\n", a, p.Name)
			return "", err
		}
	}
	_, err = fmt.Fprintf(out, "%s is in no pool of the fleet\n", a)
	return "", err
}

// change writes an operator's word into a host, until nobody was faster.
func change(ctx context.Context, o *options, name string, f func(*fleet.HostSpec)) error {
	s, err := o.open()
	if err != nil {
		return err
	}
	return word[fleet.HostSpec, fleet.HostStatus](ctx, s, fleet.Hosts, name, f)
}

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

func newHost(o *options) *cobra.Command {
	var fabric string
	c := &cobra.Command{
		Use:   "host NAME --fabric PREFIX",
		Short: "Say which prefix of an IPv6-only fabric leads to a host",
		Long: `Say which prefix of 96 bits of an IPv6-only fabric leads to a host. Relays lead the host's
blocks there, each to the addresses that end with the block's own. Blocks that the host has
already stay as they are: drain it first to have all of them moved. "" says that the host has
IPv4, and that its blocks are routed to it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("fabric") {
				return errors.New("--fabric: which prefix leads to the host?")
			}
			if wrong := fleet.WrongFabric(fabric); fabric != "" && wrong != "" {
				return fmt.Errorf("--fabric: %s", wrong)
			}
			s, err := o.open()
			if err != nil {
				return err
			}
			err = word[fleet.HostSpec, fleet.HostStatus](c.Context(), s, fleet.Hosts, args[0], func(h *fleet.HostSpec) { h.Fabric = fabric })
			if errors.Is(err, fleet.ErrNotFound) {
				_, err = fleet.Create(c.Context(), s, fleet.Hosts, fleet.Host{Name: args[0], Spec: fleet.HostSpec{Fabric: fabric}, Finalizers: []string{fleet.Finalizer}})
			}
			return err
		},
	}
	c.Flags().StringVar(&fabric, "fabric", "", "`prefix` that leads to the host, such as 2001:db8:0:7::/96")
	return c
}

func newFollow(o *options) *cobra.Command {
	all := false
	c := &cobra.Command{
		Use:   "follow RELAY... | --all",
		Short: "Have relays follow a view that they refuse, since it lacks much or is older",
		Long: `Have relays follow what they refuse: that blocks are gone which they have not seen end, since
somebody has deleted them by hand or the relay was away for good; or that the view is older
than what they go by, as after the store was restored from a backup. Look first whether it
is right (natless-fleet status). The word is about no more blocks than are missing now.`,
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("which relays? Name them, or say --all")
			}
			s, err := o.open()
			if err != nil {
				return err
			}
			relays, _, err := fleet.List[fleet.RelaySpec, fleet.RelayStatus](c.Context(), s, fleet.Relays)
			if err != nil {
				return err
			}
			for _, name := range args {
				if !slices.ContainsFunc(relays, func(r fleet.Relay) bool { return r.Name == name }) {
					return fmt.Errorf("there is no relay %s", name)
				}
			}
			return follow(c, s, slices.DeleteFunc(relays, func(r fleet.Relay) bool { return !all && !slices.Contains(args, r.Name) }))
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all relays that refuse something")
	return c
}

func follow(c *cobra.Command, s fleet.Store, relays []fleet.Relay) error {
	for _, r := range relays {
		no := r.Status.Refused
		if no == nil {
			fmt.Fprintf(c.OutOrStdout(), "%s refuses nothing\n", r.Name)
			continue
		}
		said := fleet.Follow{Epoch: no.Epoch, Lacks: no.Lacks}
		if r.Spec.Follow == nil || *r.Spec.Follow != said {
			err := word[fleet.RelaySpec, fleet.RelayStatus](c.Context(), s, fleet.Relays, r.Name, func(r *fleet.RelaySpec) { r.Follow = &said })
			if err != nil {
				return err
			}
		}
		fmt.Fprintf(c.OutOrStdout(), "%s is to follow, though %d of %d blocks are missing: %s\n", r.Name, no.Lacks, no.Of, no.Why)
	}
	return nil
}

func newDrain(o *options) *cobra.Command {
	var end bool
	c := &cobra.Command{
		Use:   "drain HOST",
		Short: "Have a host give back all that it has, as its workloads go",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return change(c.Context(), o, args[0], func(h *fleet.HostSpec) { h.Drain = !end })
		},
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
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !end && !off {
				return errors.New("--it-is-off: say that it is switched off, or cut from the network")
			}
			if !relay {
				return change(c.Context(), o, args[0], func(h *fleet.HostSpec) { h.Fenced = !end })
			}
			s, err := o.open()
			if err != nil {
				return err
			}
			return word[fleet.RelaySpec, fleet.RelayStatus](c.Context(), s, fleet.Relays, args[0], func(r *fleet.RelaySpec) { r.Fenced = !end })
		},
	}
	c.Flags().BoolVar(&off, "it-is-off", false, "it is switched off, or cut from the network for good")
	c.Flags().BoolVar(&end, "end", false, "it is back: lend to it again")
	c.Flags().BoolVar(&relay, "relay", false, "it is a relay, not a host")
	return c
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
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			kind, known := kinds[args[0]]
			if !known {
				return fmt.Errorf("%q: pool, host, relay or block", args[0])
			}
			s, err := o.open()
			if err != nil {
				return err
			}
			name := args[1]
			if kind == fleet.Blocks {
				name = fleet.NameOf(name)
			}
			for range 20 {
				is, err := s.Get(c.Context(), kind, name)
				if err != nil {
					return err
				}
				if err = s.Delete(c.Context(), is); !errors.Is(err, fleet.ErrConflict) {
					return err
				}
			}
			return fmt.Errorf("%s %s is changed by others all the time: try again", args[0], name)
		},
	}
}

func newEvents(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "events",
		Short: "Show what has happened in the last hour",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.open()
			if err != nil {
				return err
			}
			r, keeps := s.(fleet.Recorder)
			if !keeps {
				return errors.New("this store keeps no events")
			}
			all, err := r.Notes(c.Context())
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, n := range all {
				kind := "Normal"
				if n.Warning {
					kind = "Warning"
				}
				fmt.Fprintf(t, "%s\t%s\t%s/%s\t%s\t%s\n", n.Time.Local().Format("15:04:05"), kind, n.Kind, n.Name, n.Reason, n.Message)
			}
			return t.Flush()
		},
	}
}

func newRevoke(o *options) *cobra.Command {
	var end bool
	c := &cobra.Command{
		Use:   "revoke HOST BLOCK...",
		Short: "Have a host give up blocks at once, whoever has something of them",
		Long: `Have a host give up blocks at once: its workloads lose what they have of them. The blocks
rest, and are lent to nobody, until --end.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			for _, b := range args[1:] {
				if p, err := netip.ParsePrefix(b); err != nil || p.String() != b {
					return fmt.Errorf("%q is not a block such as 198.51.100.8/32", b)
				}
			}
			return change(c.Context(), o, args[0], func(h *fleet.HostSpec) {
				h.Revoke = slices.DeleteFunc(h.Revoke, func(b string) bool { return slices.Contains(args[1:], b) })
				if !end {
					h.Revoke = append(h.Revoke, args[1:]...)
				}
			})
		},
	}
	c.Flags().BoolVar(&end, "end", false, "they may be lent again")
	return c
}

func newPool(o *options) *cobra.Command {
	var length, most int
	c := &cobra.Command{
		Use:   "pool NAME PREFIX...",
		Short: "Say which addresses a pool has",
		Long: `Say which addresses a pool has, all of them. Of those that it does not have any more nothing
is lent, and what hosts have of them comes back as their workloads go: so a pool is
renumbered. natless-fleet status shows who has something of it.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := o.open()
			if err != nil {
				return err
			}
			spec := fleet.PoolSpec{IPv4: args[1:], BlockLength: length, MaxBlocksPerHost: most}
			if reason := spec.Wrong(); reason != "" {
				return errors.New(reason)
			}
			p, err := fleet.Get[fleet.PoolSpec, fleet.PoolStatus](c.Context(), s, fleet.Pools, args[0])
			switch {
			case errors.Is(err, fleet.ErrNotFound):
				_, err = fleet.Create(c.Context(), s, fleet.Pools, fleet.Pool{Name: args[0], Spec: spec, Finalizers: []string{fleet.Finalizer}})
				return err
			case err != nil:
				return err
			case p.Spec.BlockLength != length:
				return fmt.Errorf("pool %s has blocks of length %d: another length is another pool", args[0], p.Spec.BlockLength)
			}
			p.Spec = spec
			_, err = fleet.Update(c.Context(), s, fleet.Pools, p)
			return err
		},
	}
	c.Flags().IntVar(&length, "block-length", 32, "prefix `length` of a block")
	c.Flags().IntVar(&most, "max-blocks-per-host", 0, "how `many` blocks a host may have; 0: as many as it wants")
	return c
}
