package conformance

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// Natlessd is as much of a natlessd as an agent sees: the rules, and workloads that are
// counted.
type Natlessd struct {
	PerAddress int          // for how many workloads an address has room; 0: 4
	EdgeHost   netip.Prefix // of an edge

	mu    sync.Mutex // guards what follows
	state lease.State
	used  map[netip.Addr]int
}

// Use has more workloads, or fewer, have something of an address.
func (n *Natlessd) Use(a netip.Addr, more int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.used == nil {
		n.used = map[netip.Addr]int{}
	}
	n.used[a] += more
}

func (n *Natlessd) use(p netip.Prefix) (u lease.Use) {
	for a, count := range n.used {
		if p.Contains(a) {
			u.Workloads += count
		}
	}
	return u
}

// Blocks is natlessd's.
func (n *Natlessd) Blocks(context.Context) (api.Blocks, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocks(), nil
}

func (n *Natlessd) blocks() api.Blocks {
	all := api.Blocks{Epoch: n.state.Epoch, Returned: n.state.Returned, EdgeHost: n.EdgeHost}
	p := api.BlockPool{Pool: "lent", PerAddress: cmp.Or(n.PerAddress, 4), Low: 2, High: 8}
	for _, b := range n.state.Blocks {
		u := n.use(b.IPv4)
		all.Blocks = append(all.Blocks, api.HeldBlock{Block: b, Workloads: u.Workloads})
		if !b.Draining {
			p.Headroom += p.PerAddress<<(32-b.IPv4.Bits()) - u.Workloads
		}
	}
	p.Wanted = lease.Wanted(p)
	all.Pools = []api.BlockPool{p}
	return all
}

// PutBlocks is natlessd's.
func (n *Natlessd) PutBlocks(_ context.Context, s api.BlockSet) (api.Blocks, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next, _, err := n.state.Apply(s, lease.Asked{Use: n.use})
	if err != nil {
		return api.Blocks{}, err
	}
	n.state = next
	return n.blocks(), nil
}

// world is a controller and two hosts with their agents, which run as they do for real.
type world struct {
	*testing.T
	store fleet.Store
	hosts map[string]*Natlessd
}

func newWorld(t *testing.T, a, b fleet.Store) *world {
	w := &world{T: t, store: b, hosts: map[string]*Natlessd{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	log := slog.New(slog.DiscardHandler)
	_, err := fleet.Create(ctx, a, fleet.Pools, fleet.Pool{Name: "lent", Spec: fleet.PoolSpec{IPv4: []string{"198.51.100.0/30"}, BlockLength: 32}})
	if err != nil {
		t.Fatal(err)
	}
	c := fleet.ControllerTask{Controller: fleet.Controller{Store: a, Log: log},
		Elector: fleet.Elector{Name: "controller", Store: a, Duration: 15 * time.Second, Now: time.Now}, Resync: time.Second}
	running.Go(func() { c.Run(ctx) })
	for _, name := range []string{"one", "two"} {
		n := new(Natlessd)
		w.hosts[name] = n
		agent := fleet.AgentTask{Agent: fleet.Agent{Name: name, Store: b, Natlessd: n, Now: time.Now, Log: log}, Resync: 100 * time.Millisecond}
		running.Go(func() { agent.Run(ctx) })
	}
	return w
}

func (w *world) within(what string, is func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			for name, n := range w.hosts {
				b, _ := n.Blocks(w.Context())
				w.Logf("%s: %+v", name, b)
			}
			w.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func (w *world) holds(name string) (all []netip.Prefix) {
	b, _ := w.hosts[name].Blocks(w.Context())
	for _, one := range b.Blocks {
		all = append(all, one.IPv4)
	}
	return all
}

func (w *world) tell(name string, f func(*fleet.HostSpec)) {
	w.Helper()
	w.within("a word to "+name, func() bool {
		h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](w.Context(), w.store, fleet.Hosts, name)
		if err != nil {
			return false
		}
		f(&h.Spec)
		_, err = fleet.Update(w.Context(), w.store, fleet.Hosts, h)
		return err == nil
	})
}

// lends is the whole of it on a real store: two hosts are lent what they want, one is
// drained and has what it has until its workloads go, a pool is renumbered, and a host is
// told to give up what somebody has.
func lends(t *testing.T, a, b fleet.Store) {
	w := newWorld(t, a, b)
	w.within("both hold a block", func() bool { return len(w.holds("one")) == 1 && len(w.holds("two")) == 1 })
	first := w.holds("one")[0]
	w.hosts["one"].Use(first.Addr(), 3)
	w.within("more before it is needed", func() bool { return len(w.holds("one")) == 2 })
	w.hosts["one"].Use(first.Addr(), -1)

	w.tell("one", func(h *fleet.HostSpec) { h.Drain = true })
	w.within("what is empty is given back", func() bool { return len(w.holds("one")) == 1 })
	w.hosts["one"].Use(first.Addr(), -2)
	w.within("and what was in use, when nobody has it", func() bool { return len(w.holds("one")) == 0 })
	w.within("and is free", func() bool {
		all, _, err := fleet.List[fleet.BlockSpec, fleet.BlockStatus](t.Context(), a, fleet.Blocks)
		return err == nil && len(all) == 1 && all[0].Spec.Host == "two"
	})
	w.tell("one", func(h *fleet.HostSpec) { h.Drain = false })
	w.within("it is lent again", func() bool { return len(w.holds("one")) == 1 })

	p, err := fleet.Get[fleet.PoolSpec, fleet.PoolStatus](t.Context(), a, fleet.Pools, "lent")
	for p.Spec.IPv4 = []string{"203.0.113.0/29"}; err == nil; {
		if _, err = fleet.Update(t.Context(), a, fleet.Pools, p); err == nil {
			break
		}
		now, again := fleet.Get[fleet.PoolSpec, fleet.PoolStatus](t.Context(), a, fleet.Pools, "lent")
		p.Version, err = now.Version, again
	}
	if err != nil {
		t.Fatal(err)
	}
	is := func(name, prefix string) bool {
		all := w.holds(name)
		return len(all) == 1 && netip.MustParsePrefix(prefix).Overlaps(all[0])
	}
	w.within("renumbered", func() bool { return is("one", "203.0.113.0/29") && is("two", "203.0.113.0/29") })

	has := w.holds("two")[0]
	w.hosts["two"].Use(has.Addr(), 1)
	w.tell("two", func(h *fleet.HostSpec) { h.Revoke = []string{has.String()} })
	w.within("given up, whoever has it", func() bool { all := w.holds("two"); return len(all) == 1 && all[0] != has })
	w.fence()
}

// fence takes what a dead host has, by an operator's word.
func (w *world) fence() {
	had := w.holds("two")
	w.tell("two", func(h *fleet.HostSpec) { h.Fenced, h.Revoke = true, nil })
	w.within("its blocks are free", func() bool {
		all, _, err := fleet.List[fleet.BlockSpec, fleet.BlockStatus](w.Context(), w.store, fleet.Blocks)
		for _, one := range all {
			if one.Spec.Host == "two" {
				return false
			}
		}
		return err == nil
	})
	w.within("and when it is back, it has none of them", func() bool { return len(w.holds("two")) == 0 })
	w.tell("two", func(h *fleet.HostSpec) { h.Fenced = false })
	w.within("until it is lent others, by another loan", func() bool {
		b, _ := w.hosts["two"].Blocks(w.Context())
		return len(b.Blocks) == 1 && (b.Blocks[0].IPv4 != had[0] || b.Blocks[0].Lease > b.Returned[0].Lease)
	})
}

// deleted is who deletes by the usual means what hosts have: a block, a host and a pool go
// when nobody has anything of them any more.
func deleted(t *testing.T, a, b fleet.Store) {
	w := newWorld(t, a, b)
	w.within("both hold a block", func() bool { return len(w.holds("one")) == 1 && len(w.holds("two")) == 1 })
	first := w.holds("one")[0]
	w.hosts["one"].Use(first.Addr(), 1)
	del := func(k fleet.Kind, name string) {
		t.Helper()
		w.within("deletion of "+name, func() bool {
			o, err := a.Get(t.Context(), k, name)
			return err == nil && a.Delete(t.Context(), o) == nil
		})
	}
	there := func(k fleet.Kind, name string) bool {
		_, err := a.Get(t.Context(), k, name)
		return !errors.Is(err, fleet.ErrNotFound)
	}
	del(fleet.Blocks, fleet.NameOf(first.String()))
	w.within("another instead", func() bool { return len(w.holds("one")) == 2 })
	if !there(fleet.Blocks, fleet.NameOf(first.String())) {
		t.Error("a block is gone of which somebody has something")
	}
	w.hosts["one"].Use(first.Addr(), -1)
	w.within("its end", func() bool { return len(w.holds("one")) == 1 && w.holds("one")[0] != first })
	second := w.holds("two")[0]
	w.hosts["two"].Use(second.Addr(), 1)
	del(fleet.Pools, "lent")
	w.within("what is empty of it comes back", func() bool { return len(w.holds("one")) == 0 })
	if !there(fleet.Pools, "lent") {
		t.Error("a pool is gone of which somebody has something")
	}
	w.hosts["two"].Use(second.Addr(), -1)
	w.within("its end", func() bool { return !there(fleet.Pools, "lent") && len(w.holds("two")) == 0 })
	h, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), a, fleet.Hosts, "one")
	if err != nil || len(h.Finalizers) == 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	del(fleet.Hosts, "one") // its agent makes it anew, where it may
	w.within("another one", func() bool {
		now, err := fleet.Get[fleet.HostSpec, fleet.HostStatus](t.Context(), a, fleet.Hosts, "one")
		return err == nil && !now.Deleting
	})
}
