package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/config/api"
)

var errLost = errors.New("the answer is lost")

// lossy is a natlessd whose answers are lost now and then.
type lossy struct {
	*conformance.Relayd
	*rand.Rand
}

func (l lossy) PatchRules(ctx context.Context, d api.RuleDelta) (api.Relay, error) {
	is, err := l.Relayd.PatchRules(ctx, d)
	if l.IntN(20) == 0 {
		return api.Relay{}, errLost
	}
	return is, err
}

// pair is two relays that see the same: one is told deltas, and the other whole sets.
type pair struct {
	*testing.T
	*rand.Rand
	store  *fleet.Memory
	both   map[string]*follower
	leases uint64
}

type follower struct {
	d      *conformance.Relayd
	agent  *fleet.RelayAgent
	events <-chan fleet.Event
}

func (p *pair) begin(name string) {
	f := p.both[name]
	f.agent = &fleet.RelayAgent{Name: name, Store: p.store, Natlessd: lossy{f.d, p.Rand}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	p.read(name)
}

// read has an agent take its view anew, and watch from there.
func (p *pair) read(name string) {
	f := p.both[name]
	_, revision, err := p.store.List(p.Context(), fleet.Blocks)
	if err == nil {
		err = f.agent.Read(p.Context())
	}
	if err == nil {
		f.events, err = p.store.Watch(p.Context(), fleet.Blocks, "", revision)
	}
	if err != nil {
		p.Fatal(err)
	}
}

// steps has an agent see what there is, and step until it is told.
func (p *pair) steps(name string, beat bool) fleet.RelayStatus {
	f := p.both[name]
	for len(f.events) > 0 {
		if err := f.agent.See(<-f.events); err != nil {
			p.Fatal(err)
		}
	}
	var err error
	for range 20 {
		r, err2 := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](p.Context(), p.store, fleet.Relays, name)
		if err2 == nil { // what an operator says is seen by a watch
			o, _ := p.store.Get(p.Context(), fleet.Relays, name)
			f.agent.SeeOwn(fleet.Event{Object: o})
		}
		if err = f.agent.Step(p.Context(), beat); err == nil {
			r, err2 = fleet.Get[fleet.RelaySpec, fleet.RelayStatus](p.Context(), p.store, fleet.Relays, name)
			if err2 != nil {
				p.Fatal(err2)
			}
			return r.Status
		}
		if !errors.Is(err, errLost) {
			break
		}
	}
	p.Fatalf("%s: %v", name, err)
	return fleet.RelayStatus{}
}

// block does something to a block: mostly what a controller would.
func (p *pair) block() {
	n := p.IntN(48)
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), []int{32, 32, 32, 31, 30}[p.IntN(5)]).Masked()
	name := fleet.NameOf(prefix.String())
	b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](p.Context(), p.store, fleet.Blocks, name)
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		if !p.free(prefix) && p.IntN(4) > 0 {
			return
		}
		p.leases++
		b = fleet.Block{Name: name, Spec: fleet.BlockSpec{Pool: "lent", IPv4: prefix.String(), Host: "one", Lease: p.leases, State: fleet.Reserved}}
		if p.IntN(8) > 0 {
			b.Spec.IPv6 = fmt.Sprintf("2001:db8::%x:%x/%d", p.leases, 4*n, 96+prefix.Bits())
		}
		_, err = fleet.Create(p.Context(), p.store, fleet.Blocks, b)
	case b.Spec.State == fleet.Reserved && !p.free(prefix), b.Spec.State == fleet.Ended, p.IntN(12) == 0: // that last one nobody has seen end
		err = fleet.Delete(p.Context(), p.store, fleet.Blocks, b)
	default:
		b.Spec.State = map[fleet.BlockState]fleet.BlockState{fleet.Reserved: fleet.Offered, fleet.Offered: fleet.Lent, fleet.Lent: fleet.Ended}[b.Spec.State]
		_, err = fleet.Update(p.Context(), p.store, fleet.Blocks, b)
	}
	if err != nil {
		p.Fatal(err)
	}
}

// free reports whether no other block has any of the addresses.
func (p *pair) free(prefix netip.Prefix) bool {
	all, _, err := fleet.List[fleet.BlockSpec, fleet.BlockStatus](p.Context(), p.store, fleet.Blocks)
	if err != nil {
		p.Fatal(err)
	}
	for _, b := range all {
		if o := netip.MustParsePrefix(b.Spec.IPv4); o != prefix && o.Overlaps(prefix) && b.Spec.State != fleet.Reserved {
			return false
		}
	}
	return true
}

// trouble is what happens to both relays, and how many beats it takes until they know.
func (p *pair) trouble() (beats int) {
	what := p.IntN(60)
	for name, f := range p.both {
		switch what {
		case 0:
			p.begin(name)
		case 1:
			f.d.Boot()
			p.begin(name) // who has seen that natlessd is away
		case 2:
			f.d.IPv4, beats = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/27")}, 1
		case 3:
			f.d.IPv4, beats = nil, 1
		case 4:
			p.read(name)
		case 5, 6:
			r, err := fleet.Get[fleet.RelaySpec, fleet.RelayStatus](p.Context(), p.store, fleet.Relays, name)
			if err != nil || r.Status.Refused == nil {
				return 0
			}
			r.Spec.Follow = &fleet.Follow{Epoch: r.Status.Refused.Epoch, Lacks: r.Status.Refused.Lacks}
			if _, err := fleet.Update(p.Context(), p.store, fleet.Relays, r); err != nil {
				p.Fatal(err)
			}
		}
	}
	return beats
}

// TestDeltasAsSets: an agent that tells what is another has its natlessd go by the same rules as one
// that tells whole sets, acknowledges the same, and refuses and says the same, whatever happens.
func TestDeltasAsSets(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := &pair{T: t, Rand: rand.New(rand.NewPCG(seed, 0)), store: fleet.NewMemory(), both: map[string]*follower{
		"east": {d: &conformance.Relayd{}}, "west": {d: &conformance.Relayd{Old: true}}}}
	for name := range p.both {
		p.begin(name)
	}
	refused, errs := 0, 0
	for step := range 1500 {
		for range 1 + p.IntN(3) {
			p.block()
		}
		beats := p.trouble()
		for range beats { // natlessd tells of nothing by itself
			p.steps("east", true)
			p.steps("west", true)
		}
		beat := p.IntN(4) == 0
		east, west := p.steps("east", beat), p.steps("west", beat)
		if e, w := p.both["east"].d.Rules(), p.both["west"].d.Rules(); !maps.Equal(text(e), text(w)) {
			t.Fatalf("step %d: by deltas %v, by sets %v", step, text(e), text(w))
		}
		if (east.Refused == nil) != (west.Refused == nil) || east.Refused != nil && east.Refused.Lacks != west.Refused.Lacks ||
			east.Lease != west.Lease || east.State != west.State {
			t.Fatalf("step %d: by deltas %+v %v, by sets %+v %v", step, east.Refused, east.Lease, west.Refused, west.Lease)
		}
		if kindOf(east.Error) != kindOf(west.Error) {
			t.Fatalf("step %d: by deltas %q, by sets %q", step, east.Error, west.Error)
		}
		p.acknowledged(step)
		if west.Refused != nil {
			refused++
		} else if west.Error != "" {
			errs++
		}
	}
	e, w := p.both["east"].d, p.both["west"].d
	t.Logf("told %d times, of these %d whole sets, and %d times; refused in %d steps, wrong in %d", e.Told(), e.Sets(), w.Told(), refused, errs)
	if e.Sets() > e.Told()/2 || w.Sets() != w.Told() || refused == 0 || errs == 0 {
		t.Error("that proves little")
	}
}

// kindOf is an error without what tells it from others of its kind: which of two rules is told
// first, and how many there were before an answer was lost.
func kindOf(text string) string {
	for _, kind := range []string{"were not seen to end", "overlaps", "both lead to", "left out"} {
		if strings.Contains(text, kind) {
			return kind
		}
	}
	return text
}

func text(rules map[netip.Prefix]api.Rule) map[string]string {
	all := map[string]string{}
	for p, r := range rules {
		all[p.String()] = fmt.Sprint(r.IPv6, r.Lease)
	}
	return all
}

// acknowledged: both acknowledge a block that somebody waits for, or neither.
func (p *pair) acknowledged(step int) {
	blocks, _, err := fleet.List[fleet.BlockSpec, fleet.BlockStatus](p.Context(), p.store, fleet.Blocks)
	relays, _, err2 := fleet.List[fleet.RelaySpec, fleet.RelayStatus](p.Context(), p.store, fleet.Relays)
	if err := errors.Join(err, err2); err != nil {
		p.Fatal(err)
	}
	for _, b := range blocks {
		if b.Spec.State != fleet.Offered && b.Spec.State != fleet.Ended {
			continue
		}
		if names := fleet.Unacknowledged(b, relays); len(names) == 1 {
			p.Fatalf("step %d: %s %s is not acknowledged by %v alone", step, b.Name, b.Spec.State, names)
		}
	}
}
