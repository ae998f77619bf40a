//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
)

// bootID is which boot of the host this is; "" where the kernel does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// lend completes pools with the blocks that the host has, as far as they are confirmed.
// It refuses a configuration that has their addresses for something else.
func lend(c *config.Config, pools []registry.Pool, s lease.State, boot string) ([]registry.Pool, error) {
	for _, b := range s.Blocks {
		if err := c.CheckBlock(b.IPv4); err != nil {
			return nil, fmt.Errorf("a block that the fleet has lent this host for pool %s: %w: drain this host in the fleet first", b.Pool, err)
		}
	}
	all := slices.Clone(pools)
	for i := range all {
		p := &all[i]
		if !p.Fleet {
			continue
		}
		p.Blocks, p.Draining = s.Usable(boot, p.Name), nil
		for _, b := range s.Blocks {
			if b.Pool == p.Name && b.Draining && s.Confirmed(boot) {
				p.Draining = append(p.Draining, b.IPv4)
			}
		}
	}
	return all, registry.CheckPools(all)
}

// pools are those of a configuration, with the blocks that the host has now.
func (r *reloader) pools(c *config.Config) ([]registry.Pool, error) {
	pools, err := Pools(c, route.UplinkAddr)
	if err != nil {
		return nil, err
	}
	return lend(c, pools, r.keeper.Blocks(), r.boot)
}

// putBlocks has the host hold other blocks. What is answered is durable and in force.
func (r *reloader) putBlocks(ctx context.Context, set api.BlockSet) (api.Blocks, error) {
	r.one.Lock()
	defer r.one.Unlock()
	c, before := r.running(), r.keeper.Blocks()
	next, gone, err := before.Apply(set, r.asked(c))
	if err != nil {
		return api.Blocks{}, err
	}
	if next.Equal(before) {
		return r.blocks(c), nil
	}
	pools, err := Pools(c, route.UplinkAddr)
	if err == nil {
		_, err = lend(c, pools, next, r.boot)
	}
	if err != nil {
		return api.Blocks{}, &api.Problem{Code: api.CodeInvalid, Field: "blocks", Detail: err.Error()}
	}
	if err := r.closeBlocks(ctx, c, before, set, gone); err != nil {
		return api.Blocks{}, err
	}
	if err := r.hold(c, next); err != nil {
		return api.Blocks{}, errors.Join(err, r.hold(c, before))
	}
	r.log.Info("the fleet has lent this host other blocks", "epoch", next.Epoch, "blocks", len(next.Blocks), "gone", len(gone))
	return r.blocks(c), nil
}

// hold has blocks on disk, then in force.
func (r *reloader) hold(c *config.Config, s lease.State) error {
	if err := r.keeper.SetBlocks(s); err != nil {
		return err
	}
	return r.replace(c)
}

// closeBlocks sees to it that nobody has anything of blocks that are to go, nor is given
// anything: somebody may have come while the set was looked at.
func (r *reloader) closeBlocks(ctx context.Context, c *config.Config, before lease.State, set api.BlockSet, gone []api.Block) error {
	closing := before
	closing.Blocks = slices.Clone(before.Blocks)
	for i, b := range closing.Blocks {
		if slices.Contains(gone, b) {
			closing.Blocks[i].Draining = true
		}
	}
	if closing.Equal(before) && len(set.Revoked) == 0 || !before.Confirmed(r.boot) && len(gone) == 0 {
		return nil
	}
	if err := r.hold(c, closing); err != nil {
		return errors.Join(err, r.hold(c, before))
	}
	for _, b := range gone {
		if slices.Contains(set.Revoked, b.IPv4) {
			if err := r.revoke(ctx, b); err != nil {
				return err
			}
		}
	}
	if _, _, err := before.Apply(set, r.asked(c)); err != nil {
		return errors.Join(err, r.hold(c, before))
	}
	return nil
}

// revoke takes what workloads have of a block that an operator took away.
func (r *reloader) revoke(ctx context.Context, b api.Block) error {
	for a := b.IPv4.Addr(); b.IPv4.Contains(a); a = a.Next() {
		for _, o := range r.keeper.Owners(a) {
			r.log.Warn("a workload loses what it has: an operator took the block from this host", "workload", o.Key, "name", o.Request.Name,
				"address", a, "block", b.IPv4)
			if err := r.keeper.Delete(ctx, o.Key); err != nil && !errors.Is(err, registry.ErrNotFound) {
				return err
			}
		}
	}
	return nil
}

// asked is what a set of blocks is judged by.
func (r *reloader) asked(c *config.Config) lease.Asked {
	return lease.Asked{Boot: r.boot, Use: r.keeper.Use, Check: func(b api.Block) (string, error) {
		i := slices.IndexFunc(c.Pools, func(p config.Pool) bool { return p.Name == b.Pool })
		if i < 0 || c.Pools[i].From != config.FromFleet {
			return "pool", fmt.Errorf("there is no pool %q from: fleet in the configuration of this host", b.Pool)
		}
		return "ipv4", c.CheckBlock(b.IPv4)
	}}
}

// blocks is what the host has of a fleet, and what it would have.
func (r *reloader) blocks(c *config.Config) api.Blocks {
	s := r.keeper.Blocks()
	all := api.Blocks{Epoch: s.Epoch, Blocks: []api.HeldBlock{}, Returned: append([]api.ReturnedBlock{}, s.Returned...), Pools: []api.BlockPool{}}
	if c.Edge.Enabled {
		all.EdgeHost = c.Edge.Host
	}
	for _, b := range s.Blocks {
		u := r.keeper.Use(b.IPv4)
		all.Blocks = append(all.Blocks, api.HeldBlock{Block: b, Unconfirmed: !s.Confirmed(r.boot), Workloads: u.Workloads, Cooling: u.Cooling})
	}
	if !slices.ContainsFunc(c.Pools, func(p config.Pool) bool { return p.From == config.FromFleet }) {
		return all // the use of pools is counted by looking at every address
	}
	usage := map[string]api.Pool{}
	for _, p := range r.keeper.Pools() {
		usage[p.Name] = p
	}
	for _, p := range c.Pools {
		if p.From != config.FromFleet {
			continue
		}
		one := api.BlockPool{Pool: p.Name, Headroom: usage[p.Name].Headroom, PerAddress: r.keeper.PerAddress(p.Name),
			Low: p.LowWatermark, High: p.HighWatermark}
		if usage[p.Name].Drained.IsZero() {
			one.Wanted = lease.Wanted(one)
		}
		all.Pools = append(all.Pools, one)
	}
	return all
}

// lentBlocks says how a host that has pools of blocks stands with its fleet.
func lentBlocks(b api.Blocks) []api.Check {
	if len(b.Pools) == 0 && len(b.Blocks) == 0 {
		return nil
	}
	check := api.Check{Name: "fleet", State: "ok"}
	unconfirmed, draining, without, of := 0, 0, []string{}, map[string]int{}
	for _, one := range b.Blocks {
		switch {
		case one.Unconfirmed:
			unconfirmed++
		case one.Draining:
			draining++
		default:
			of[one.Pool]++
		}
	}
	var wants []string
	for _, p := range b.Pools {
		if of[p.Pool] == 0 {
			without = append(without, p.Pool)
		} else if p.Wanted > 0 {
			wants = append(wants, fmt.Sprintf("pool %s has room for %s and wants it for %d", p.Pool, words.Count(p.Headroom, "workload"), p.Low))
		}
	}
	said := []string{words.Count(len(b.Blocks), "block") + fmt.Sprintf(" lent to this host, epoch %d", b.Epoch)}
	if unconfirmed > 0 {
		said = append(said, fmt.Sprintf("%s not used since the host was booted, until natless-fleet agent says that they are its own",
			words.Count(unconfirmed, "block")))
	}
	if draining > 0 {
		said = append(said, words.Count(draining, "block")+" draining")
	}
	if len(without) > 0 {
		said = append(said, "no block for pool "+strings.Join(without, ", ")+": does natless-fleet agent run, and has the fleet's pool room?")
	}
	said = append(said, wants...)
	if unconfirmed > 0 || len(without) > 0 || len(wants) > 0 {
		check.State = "warn"
	}
	check.Detail = strings.Join(said, "; ")
	return []api.Check{check}
}

// heldPrefixes are the blocks of pools, those that drain as well: what leads there leads
// here.
func heldPrefixes(pools []registry.Pool) (all []netip.Prefix) {
	for _, p := range pools {
		if p.Fleet {
			all = append(append(all, p.Blocks...), p.Draining...)
		}
	}
	return all
}
