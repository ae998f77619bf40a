package conformance

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// Relayd is as much of the natlessd of a relay as an agent sees: the rules.
type Relayd struct {
	IPv4 []netip.Prefix // what it serves; none: everything
	Old  bool           // it knows nothing of changes
	// Check says why a rule cannot be one there; nil: any can.
	Check func(api.Rule) (field string, err error)
	// Applied is called when rules of an epoch are in force; nil: nobody asks.
	Applied func(epoch uint64)

	mu    sync.Mutex // guards what follows
	boot  string
	state lease.Relay
	away  bool
	told  int
	sets  int // of these, whole ones
}

// Away has it answer nobody, or again.
func (r *Relayd) Away(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = yes
}

// Told is how often it was told rules.
func (r *Relayd) Told() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// Sets is how often these were whole sets.
func (r *Relayd) Sets() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sets
}

// Boot has it be booted: nobody has said since that its rules hold.
func (r *Relayd) Boot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boot += "'"
}

// Rules are those in force, by block.
func (r *Relayd) Rules() map[netip.Prefix]api.Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[netip.Prefix]api.Rule, r.state.Count())
	for _, one := range r.state.Rules() {
		all[one.IPv4] = one
	}
	return all
}

// Has is the rule of a block.
func (r *Relayd) Has(block netip.Prefix) (api.Rule, bool) {
	rule, ok := r.Rules()[block]
	return rule, ok
}

// Relay is natlessd's.
func (r *Relayd) Relay(context.Context) (api.Relay, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return api.Relay{}, api.ErrUnavailable
	}
	is := r.is()
	is.Rules = r.state.Rules()
	return is, nil
}

func (r *Relayd) is() api.Relay {
	is := api.Relay{Epoch: r.state.Epoch, State: api.RelayServes, Count: r.state.Count(), IPv4: r.IPv4, StaleAfter: 60, LastLease: r.state.LastLease()}
	if !r.Old {
		is.Digest = r.state.Digest()
	}
	if len(is.IPv4) == 0 {
		is.IPv4 = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	}
	if !r.state.Confirmed(r.boot) {
		is.State = api.RelayUnconfirmed
	}
	return is
}

// PutRules is natlessd's.
func (r *Relayd) PutRules(_ context.Context, set api.RuleSet) (api.Relay, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return api.Relay{}, api.ErrUnavailable
	}
	next, _, err := r.state.Apply(set, lease.RelayAsked{Boot: r.boot, Check: r.Check})
	if err == nil {
		r.sets++
	}
	return r.goes(next, err)
}

// PatchRules is natlessd's.
func (r *Relayd) PatchRules(_ context.Context, d api.RuleDelta) (api.Relay, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return api.Relay{}, api.ErrUnavailable
	}
	if r.Old {
		return api.Relay{}, &api.Problem{Code: api.CodeMethodNotAllowed, Detail: "PATCH is not for /v1/relay"}
	}
	next, _, err := r.state.Change(d, lease.RelayAsked{Boot: r.boot, Check: r.Check})
	return r.goes(next, err)
}

func (r *Relayd) goes(next lease.Relay, err error) (api.Relay, error) {
	if err != nil {
		return api.Relay{}, err
	}
	r.state = next
	r.told++
	if r.Applied != nil {
		r.Applied(next.Epoch)
	}
	return r.is(), nil
}

// relays is the whole of relays on a real store: what a host is lent is used when both lead
// to it, and somebody else's when neither leads to who had it; who is off is waited for no
// longer than an operator says.
func relays(t *testing.T, a, b fleet.Store) {
	w := newWorld(t, a, b)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	both := map[string]*Relayd{"east": {}, "west": {}}
	for name, r := range both {
		task := fleet.RelayTask{Beat: time.Second, Reread: time.Hour, RelayAgent: fleet.RelayAgent{Name: name, Store: b, Natlessd: r, Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
		running.Go(func() { task.Run(ctx) })
	}
	for _, name := range []string{"east", "west"} {
		w.within(name+" lives", func() bool {
			r, err := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](t.Context(), a, fleet.Relays, name)
			return err == nil && r.Status.Renewed != ""
		})
	}
	w.within("both hold a block", func() bool { return len(w.holds("one")) == 1 && len(w.holds("two")) == 1 })
	w.tell("one", func(h *fleet.HostSpec) { h.Fabric = "2001:db8:0:1::/96" })
	first := w.holds("one")[0]
	w.hosts["one"].Use(first.Addr(), 3)
	w.within("more before it is needed", func() bool { return len(w.holds("one")) == 2 })
	second := w.holds("one")[1]
	if second == first {
		second = w.holds("one")[0]
	}
	for name, r := range both {
		if rule, ok := r.Has(second); !ok || !netip.MustParsePrefix("2001:db8:0:1::/96").Contains(rule.IPv6.Addr()) {
			t.Errorf("%s was used before %s led to it: %+v", second, name, rule)
		}
		if _, ok := r.Has(first); ok {
			t.Errorf("%s leads %s somewhere, which is routed to its host", name, first)
		}
	}
	both["west"].Away(true)
	w.tell("one", func(h *fleet.HostSpec) { h.Fenced = true })
	w.within("a fence of the one", func() bool { _, has := both["east"].Has(second); return !has })
	block, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](t.Context(), a, fleet.Blocks, fleet.NameOf(second.String()))
	if err != nil || block.Spec.State != fleet.Ended {
		t.Errorf("the block, while the other leads to who had it: %+v, %v", block, err)
	}
	w.within("an operator's word", func() bool {
		r, err := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](t.Context(), a, fleet.Relays, "west")
		if r.Spec.Fenced = true; err == nil {
			_, err = fleet.Update(t.Context(), a, fleet.Relays, r)
		}
		return err == nil
	})
	w.within("a block that is free", func() bool {
		_, err := a.Get(t.Context(), fleet.Blocks, block.Name)
		return err != nil
	})
}
