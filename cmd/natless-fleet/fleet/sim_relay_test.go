package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

// simRelay is a relay: its natlessd, which knows the rules of relays, and its agent.
type simRelay struct {
	*sim
	*actor
	agent *RelayAgent
	boot  string
	state lease.Relay // on disk
}

func (h *simHost) fabric() string {
	return fmt.Sprintf("2001:db8:0:%s::/96", h.name[len("host"):])
}

func (s *sim) newRelay(name string, log *slog.Logger) *simRelay {
	r := &simRelay{sim: s, actor: &actor{name: name}}
	skew := time.Duration(s.rnd.Int64N(int64(time.Hour)))
	r.restart = func() {
		r.agent = &RelayAgent{Name: name, Store: faulty{s, r.actor}, Natlessd: r, Log: log, Now: func() time.Time { return s.now.Add(skew) }}
	}
	r.work = func(ctx context.Context) {
		switch s.rnd.IntN(4) {
		case 0:
			if r.agent.view != nil {
				r.agent.Read(ctx)
			}
		case 1, 2:
			r.hear(ctx)
		} // else it goes by what it has read once
		if r.agent.Step(ctx, s.rnd.IntN(4) == 0) != nil && s.rnd.IntN(2) == 0 {
			r.agent.own, r.agent.is = nil, nil
		}
	}
	r.power(true)
	return r
}

// hear has the agent see some of what has changed since, as a watch that is late would tell it.
func (r *simRelay) hear(ctx context.Context) {
	if r.agent.view == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := r.store.Watch(ctx, Blocks, "", r.agent.epoch)
	if err != nil {
		r.t.Fatal(err)
	}
	for range r.rnd.IntN(1 + len(events)) {
		if err := r.agent.See(<-events); err != nil {
			r.agent.view = nil
			return
		}
		r.count["changes heard of"]++
	}
}

func (r *simRelay) power(on bool) {
	if r.on = on; !on {
		r.tell("%s dies", r.name)
		r.kill()
		return
	}
	r.boots++
	r.boot = fmt.Sprint(r.boots)
	r.tell("%s boots", r.name)
	r.restart()
}

func (r *simRelay) stands() api.Relay {
	is := api.Relay{Epoch: r.state.Epoch, State: api.RelayServes, Count: r.state.Count(), LastLease: r.state.LastLease(), Digest: r.state.Digest(),
		IPv4: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
	if !r.state.Confirmed(r.boot) {
		is.State = api.RelayUnconfirmed
	}
	return is
}

// Relay is natlessd's.
func (r *simRelay) Relay(context.Context) (api.Relay, error) {
	r.ask()
	if r.chance(200) {
		return api.Relay{}, errCut
	}
	is := r.stands()
	is.Rules = r.state.Rules()
	return is, nil
}

// PutRules is natlessd's.
func (r *simRelay) PutRules(_ context.Context, set api.RuleSet) (api.Relay, error) {
	return r.told(func() error {
		next, _, err := r.state.Apply(set, lease.RelayAsked{Boot: r.boot})
		r.tell("natlessd of %s: %+v: %v", r.name, set, err)
		return r.went(next, err, "sets")
	})
}

// PatchRules is natlessd's.
func (r *simRelay) PatchRules(_ context.Context, d api.RuleDelta) (api.Relay, error) {
	return r.told(func() error {
		next, _, err := r.state.Change(d, lease.RelayAsked{Boot: r.boot})
		r.tell("natlessd of %s: %+v: %v", r.name, d, err)
		return r.went(next, err, "deltas")
	})
}

// told has natlessd do as it is told, or not, or some time.
func (r *simRelay) told(do func() error) (api.Relay, error) {
	r.ask()
	if r.chance(200) {
		return api.Relay{}, errCut
	}
	boot := r.boot
	if r.chance(60) {
		r.count["rules that are late"]++
		r.late = append(r.late, func() {
			if r.on && r.boot == boot {
				do()
			}
		})
		return api.Relay{}, errCut
	}
	if err := do(); err != nil {
		return api.Relay{}, err
	}
	if r.chance(100) {
		return api.Relay{}, errCut
	}
	return r.stands(), nil
}

func (r *simRelay) went(next lease.Relay, err error, what string) error {
	if err != nil {
		r.count[what+" refused"]++
		return err
	}
	r.count["rules"] += next.Count()
	r.count[what]++
	r.state = next
	r.check()
	return nil
}

// trouble is what happens to a relay, and what operators do.
func (r *simRelay) trouble() {
	switch r.rnd.IntN(4) {
	case 0:
		r.kill() // the agent
	case 1:
		r.cut = !r.cut
	case 2:
		r.power(!r.on)
	case 3:
		if r.spec().Fenced {
			r.put(func(s *RelaySpec) { s.Fenced = false })
		} else if !r.on {
			r.count["fenced relays"]++
			r.put(func(s *RelaySpec) { s.Fenced = true })
		}
	}
}

func (r *simRelay) spec() RelaySpec {
	o, err := Get[RelaySpec, RelayStatus](r.ctx, r.store, Relays, r.name)
	if err != nil {
		return RelaySpec{}
	}
	return o.Spec
}

func (r *simRelay) put(f func(*RelaySpec)) {
	put(r.sim, Relays, r.name, func(o *Relay) { f(&o.Spec) })
}

func (r *simRelay) settle() {
	if r.cut = false; !r.on {
		r.power(true)
	}
	r.put(func(s *RelaySpec) { s.Fenced = false })
}

// lacks is what the relay does not do for blocks as they are.
func (r *simRelay) lacks(blocks []Block) string {
	rules := map[string]string{}
	for _, one := range r.state.InForce(r.boot) {
		rules[one.IPv4.String()] = one.IPv6.String()
	}
	for _, b := range blocks {
		if rules[b.Spec.IPv4] != b.Spec.IPv6 {
			return fmt.Sprintf("%s leads %s to %q, and not to %q", r.name, b.Spec.IPv4, rules[b.Spec.IPv4], b.Spec.IPv6)
		}
		delete(rules, b.Spec.IPv4)
	}
	if len(rules) > 0 {
		return fmt.Sprintf("%s: rules of nobody's blocks: %v", r.name, rules)
	}
	return ""
}

// checkRelays: no relay leads to one host what another has.
func (s *sim) checkRelays(owner map[netip.Addr]*simHost) {
	for _, r := range s.relay {
		if !r.on {
			continue
		}
		for _, rule := range r.state.InForce(r.boot) {
			for a := rule.IPv4.Addr(); rule.IPv4.Contains(a); a = a.Next() {
				if h := owner[a]; h != nil && !netip.MustParsePrefix(h.fabric()).Contains(rule.IPv6.Addr()) {
					s.fail("%s has %s, and %s leads it to %s by lease %d", h.name, a, r.name, rule.IPv6, rule.Lease)
				}
			}
		}
	}
}
