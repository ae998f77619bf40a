package fleet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
)

var (
	steps = flag.Int("steps", 10_000, "of the simulation")
	seed  = flag.Uint64("seed", 0, "of the simulation; 0: another each time")
	trace = flag.Bool("trace", false, "tell of each write of the simulation")
)

// died unwinds an actor that was killed in the middle of a question.
type died struct{}

// actor is a process that asks questions: between two of them others go on, or it dies.
type actor struct {
	name    string
	work    func(context.Context) // one round; begun again when it has ended
	restart func()                // forgets what a process forgets
	cut     bool                  // the store cannot be reached
	on      bool

	yield func(struct{}) bool
	next  func() (struct{}, bool)
	stop  func()
}

func (a *actor) ask() {
	if !a.yield(struct{}{}) {
		panic(died{})
	}
}

// move lets the actor go on until its next question.
func (a *actor) move(ctx context.Context) {
	if a.next == nil {
		a.next, a.stop = iter.Pull(func(yield func(struct{}) bool) {
			defer func() {
				if r := recover(); r != nil && r != (died{}) {
					panic(r)
				}
			}()
			a.yield = yield
			a.work(ctx)
		})
	}
	if _, more := a.next(); !more {
		a.next = nil
	}
}

// kill ends the actor wherever it is.
func (a *actor) kill() {
	if a.next != nil {
		a.stop()
		a.next = nil
	}
	a.restart()
}

var errCut = errors.New("nobody answers")

// faulty is the store as one actor sees it: questions take time, answers are lost, and
// writes are made later than anybody believes.
type faulty struct {
	*sim
	*actor
}

func (f faulty) fails() bool {
	f.ask()
	return f.cut || f.chance(100)
}

// write makes a write, or does not, or has it made some time.
func (f faulty) write(ctx context.Context, do func(context.Context, Object) (Object, error), o Object) (Object, error) {
	if f.fails() {
		return Object{}, errCut
	}
	if f.chance(80) {
		f.late = append(f.late, func() {
			_, err := do(ctx, o)
			f.tell("late, %s writes %s %s: spec %s status %s: %v", f.name, o.Kind, o.Name, o.Spec, o.Status, err)
		})
		return Object{}, errCut
	}
	o, err := do(ctx, o)
	f.tell("%s writes %s %s: spec %s status %s: %v", f.name, o.Kind, o.Name, o.Spec, o.Status, err)
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrExists) {
		f.count["conflicts"]++
	}
	if f.chance(80) {
		return Object{}, errCut
	}
	return o, err
}

func (f faulty) Get(ctx context.Context, k Kind, name string) (Object, error) {
	if f.fails() {
		return Object{}, errCut
	}
	return f.store.Get(ctx, k, name)
}

func (f faulty) List(ctx context.Context, k Kind) ([]Object, uint64, error) {
	if f.fails() {
		return nil, 0, errCut
	}
	return f.store.List(ctx, k)
}

func (f faulty) Watch(context.Context, Kind, string, uint64) (<-chan Event, error) {
	return nil, errCut
}

func (f faulty) Create(ctx context.Context, o Object) (Object, error) {
	return f.write(ctx, f.store.Create, o)
}

func (f faulty) Update(ctx context.Context, o Object) (Object, error) {
	return f.write(ctx, f.store.Update, o)
}

func (f faulty) UpdateStatus(ctx context.Context, o Object) (Object, error) {
	return f.write(ctx, f.store.UpdateStatus, o)
}

func (f faulty) Delete(ctx context.Context, o Object) error {
	_, err := f.write(ctx, func(ctx context.Context, o Object) (Object, error) { return o, f.store.Delete(ctx, o) }, o)
	return err
}

// The shape of the simulated world.
const (
	simHosts   = 6
	perAddress = 3
)

var simPools = []string{"lent", "wide"}

var simPrefixes = []string{"198.51.100.0/29", "198.51.100.16/29", "203.0.113.0/30"}

// sim is a whole fleet, one step at a time.
type sim struct {
	t     testing.TB
	ctx   context.Context
	seed  uint64
	rnd   *rand.Rand
	calm  bool // nothing goes wrong any more
	store *Memory
	late  []func() // writes that are on their way
	now   time.Time
	step  int
	hosts []*simHost
	lead  []*actor
	relay []*simRelay
	count map[string]int
	boots int
}

// simHost is a host: its natlessd, which knows the rules, and its agent.
type simHost struct {
	*sim
	*actor
	agent     *Agent
	boot      string
	state     lease.State // on disk
	workloads map[netip.Addr]int
	word      map[netip.Prefix]bool // blocks that an operator took, by his word
	was       []Host                // what watches may tell of it, late
}

// tell says what happens, to who looks for the reason of a failure.
func (s *sim) tell(format string, args ...any) {
	if *trace {
		s.t.Logf("%d: %s", s.step, fmt.Sprintf(format, args...))
	}
}

func (s *sim) chance(n int) bool { return !s.calm && s.rnd.IntN(n) == 0 }

func newSim(t testing.TB, seed uint64) *sim {
	s := &sim{t: t, ctx: t.Context(), seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), store: NewMemory(), now: time.Unix(1e9, 0), count: map[string]int{}}
	log := slog.New(slog.DiscardHandler)
	for i := range 2 {
		a := &actor{name: fmt.Sprint("controller", i), on: true}
		skew, rate := time.Duration(s.rnd.Int64N(int64(time.Hour))), 1+s.rnd.Float64()/2
		clock := func() time.Time { return s.now.Add(skew + time.Duration(rate*float64(s.now.Sub(time.Unix(1e9, 0))))) }
		var e *Elector
		c := &Controller{Store: faulty{s, a}, Log: log, Now: clock, Patience: time.Minute}
		a.restart = func() {
			c.heard = nil
			e = &Elector{Name: fmt.Sprint(a.name, "-", s.step), Store: faulty{s, a}, Duration: 15 * time.Second, Now: clock}
		}
		a.restart()
		a.work = func(ctx context.Context) {
			if leads, err := e.Lead(ctx); err != nil || !leads && !s.chance(20) { // now and then one that does not know that it leads no more
				return
			}
			if wrote, err := c.Pass(ctx); wrote && err == nil {
				s.count["passes"]++
			}
		}
		s.lead = append(s.lead, a)
	}
	for i := range simHosts {
		s.hosts = append(s.hosts, s.newHost(fmt.Sprint("host", i), log))
	}
	for i := range 2 {
		s.relay = append(s.relay, s.newRelay(fmt.Sprint("relay", i), log))
	}
	for i, h := range s.hosts {
		if i%2 == 0 {
			s.putHost(h.name, func(o *Host) { o.Spec.Fabric = h.fabric() })
		}
	}
	s.put(Pools, "lent", func(p *Pool) { p.Spec = PoolSpec{IPv4: simPrefixes[:2], BlockLength: 32} })
	// An operator's mistake: the same addresses, in blocks of another size.
	s.put(Pools, "wide", func(p *Pool) { p.Spec = PoolSpec{IPv4: simPrefixes[1:], BlockLength: 31} })
	return s
}

func (s *sim) newHost(name string, log *slog.Logger) *simHost {
	h := &simHost{sim: s, actor: &actor{name: name}, workloads: map[netip.Addr]int{}, word: map[netip.Prefix]bool{}}
	skew := time.Duration(s.rnd.Int64N(int64(time.Hour)))
	h.restart = func() {
		h.agent = &Agent{Name: name, Store: faulty{s, h.actor}, Natlessd: h, Idle: 30 * time.Second, Log: log,
			Now: func() time.Time { return s.now.Add(skew) }}
	}
	h.work = func(ctx context.Context) {
		var seen *Host
		if len(h.was) > 0 && s.rnd.IntN(2) == 0 {
			one := h.was[s.rnd.IntN(len(h.was))]
			seen = &one
		}
		h.agent.Step(ctx, seen)
	}
	h.power(true)
	return h
}

// put changes an object as an operator would, until nobody was faster.
func put[S, T any](s *sim, k Kind, name string, f func(*Of[S, T])) {
	o, err := Get[S, T](s.ctx, s.store, k, name)
	if errors.Is(err, ErrNotFound) {
		o.Name = name
		f(&o)
		_, err = Create(s.ctx, s.store, k, o)
	} else if err == nil {
		f(&o)
		_, err = Update(s.ctx, s.store, k, o)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *sim) put(k Kind, name string, f func(*Pool)) { put(s, k, name, f) }

func (s *sim) putHost(name string, f func(*Host)) { put(s, Hosts, name, f) }

// power has a host boot, or die with all that it does.
func (h *simHost) power(on bool) {
	h.on = on
	clear(h.workloads)
	if !on {
		h.tell("%s dies", h.name)
		h.kill()
		return
	}
	h.boots++
	h.boot = fmt.Sprint(h.boots)
	h.tell("%s boots", h.name)
	h.restart()
}

func (h *simHost) use(p netip.Prefix) (u lease.Use) {
	for a, n := range h.workloads {
		if p.Contains(a) {
			u.Workloads += n
		}
	}
	return u
}

// Blocks is natlessd's.
func (h *simHost) Blocks(context.Context) (api.Blocks, error) {
	h.ask()
	if h.chance(200) {
		return api.Blocks{}, errCut
	}
	return h.blocks(), nil
}

func (h *simHost) blocks() api.Blocks {
	all := api.Blocks{Epoch: h.state.Epoch, Returned: h.state.Returned}
	for _, b := range h.state.Blocks {
		all.Blocks = append(all.Blocks, api.HeldBlock{Block: b, Unconfirmed: !h.state.Confirmed(h.boot), Workloads: h.use(b.IPv4).Workloads})
	}
	for _, name := range simPools {
		p := api.BlockPool{Pool: name, PerAddress: perAddress, Low: 2, High: 5, Headroom: h.headroom(name)}
		p.Wanted = lease.Wanted(p)
		all.Pools = append(all.Pools, p)
	}
	return all
}

func (h *simHost) headroom(pool string) (n int) {
	for _, p := range h.state.Usable(h.boot, pool) {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			n += perAddress - h.workloads[a]
		}
	}
	return n
}

// PutBlocks is natlessd's.
func (h *simHost) PutBlocks(_ context.Context, set api.BlockSet) (api.Blocks, error) {
	h.ask()
	if h.chance(200) {
		return api.Blocks{}, errCut
	}
	next, gone, err := h.state.Apply(set, lease.Asked{Boot: h.boot, Use: h.use})
	if err != nil {
		h.count["refused"]++
		return api.Blocks{}, err
	}
	for _, b := range gone {
		h.count["given up"]++
		for a := range h.workloads {
			if b.IPv4.Contains(a) && h.workloads[a] > 0 {
				if !h.word[b.IPv4] {
					h.fail("a workload of %s lost %s, and nobody said so", h.name, a)
				}
				h.count["lost by an operator's word"]++
				delete(h.workloads, a)
			}
		}
		delete(h.word, b.IPv4)
	}
	h.count["taken"] += len(next.Blocks) - len(h.state.Blocks) + len(gone)
	h.state = next
	h.tell("natlessd of %s: %+v", h.name, set)
	h.check()
	if h.chance(100) {
		return api.Blocks{}, errCut
	}
	return h.blocks(), nil
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("-seed %d: step %d: %s", s.seed, s.step, fmt.Sprintf(format, args...))
}

// check is what must be true at each step: no address has two owners.
func (s *sim) check() {
	owner := map[netip.Addr]*simHost{}
	for _, h := range s.hosts {
		if !h.on || !h.state.Confirmed(h.boot) {
			continue
		}
		for _, b := range h.state.Blocks {
			for a := b.IPv4.Addr(); b.IPv4.Contains(a); a = a.Next() {
				if o := owner[a]; o != nil {
					s.fail("%s and %s both have %s", o.name, h.name, a)
				}
				owner[a] = h
			}
		}
		for a, n := range h.workloads {
			if n > 0 && owner[a] != h || n > perAddress {
				s.fail("a workload of %s has %s, and the host does not", h.name, a)
			}
		}
	}
	s.checkRelays(owner)
}

// churn has a workload come to a host, or go.
func (s *sim) churn() {
	h := s.hosts[s.rnd.IntN(len(s.hosts))]
	if !h.on {
		return
	}
	if s.rnd.IntN(2) == 0 {
		for _, p := range h.state.Usable(h.boot, simPools[s.rnd.IntN(2)]) {
			if h.workloads[p.Addr()] < perAddress {
				h.workloads[p.Addr()]++
				s.count["workloads"]++
				break
			}
		}
	} else if len(h.workloads) > 0 {
		all := slices.SortedFunc(maps.Keys(h.workloads), netip.Addr.Compare)
		a := all[s.rnd.IntN(len(all))]
		if h.workloads[a]--; h.workloads[a] <= 0 {
			delete(h.workloads, a)
		}
	}
	s.check()
}

// trouble is what happens to a fleet, and what operators do.
func (s *sim) trouble() {
	h := s.hosts[s.rnd.IntN(len(s.hosts))]
	spec := func() HostSpec {
		o, err := Get[HostSpec, HostStatus](s.ctx, s.store, Hosts, h.name)
		if err != nil {
			return HostSpec{}
		}
		return o.Spec
	}
	switch s.rnd.IntN(12) {
	case 10, 11:
		s.relay[s.rnd.IntN(len(s.relay))].trouble()
	case 0:
		h.kill() // the agent
	case 1:
		h.cut = !h.cut
	case 2:
		c := s.lead[s.rnd.IntN(len(s.lead))]
		c.cut = !c.cut && s.rnd.IntN(3) == 0
		c.kill()
	case 3:
		h.power(!h.on)
	case 4:
		if !h.on && s.rnd.IntN(2) == 0 {
			s.fence(h)
		}
	case 5:
		if spec().Fenced {
			s.putHost(h.name, func(o *Host) { o.Spec.Fenced = false })
		}
	case 6:
		s.putHost(h.name, func(o *Host) { o.Spec.Drain = !o.Spec.Drain && s.rnd.IntN(2) == 0 })
	case 7:
		n := s.rnd.IntN(len(simPrefixes))
		s.put(Pools, simPools[s.rnd.IntN(2)], func(p *Pool) { // renumbered
			p.Spec.IPv4 = append(slices.Clone(simPrefixes[:n]), simPrefixes[n+1:]...)
		})
	case 8:
		s.revoke(h)
	case 9:
		s.forget(h)
	}
}

// fence is an operator's word that a host is off, which is true.
func (s *sim) fence(h *simHost) {
	s.count["fenced"]++
	s.tell("%s is fenced", h.name)
	s.putHost(h.name, func(o *Host) { o.Spec.Fenced = true })
	for _, b := range h.state.Blocks {
		h.word[b.IPv4] = true
	}
	o, err := Get[HostSpec, HostStatus](s.ctx, s.store, Hosts, h.name)
	if err == nil {
		for _, b := range o.Spec.Blocks {
			h.word[netip.MustParsePrefix(b.IPv4)] = true
		}
	}
}

// revoke is an operator's word that a host is to give up a block, or none any more.
func (s *sim) revoke(h *simHost) {
	s.putHost(h.name, func(o *Host) {
		o.Spec.Revoke = nil
		if n := len(o.Spec.Blocks); n > 0 && s.rnd.IntN(2) == 0 {
			one := o.Spec.Blocks[s.rnd.IntN(n)].IPv4
			o.Spec.Revoke = []string{one}
			h.word[netip.MustParsePrefix(one)] = true
			s.count["revoked"]++
		}
	})
}

// forget is somebody who deletes a host's object by hand while its agent works.
func (s *sim) forget(h *simHost) {
	o, err := s.store.Get(s.ctx, Hosts, h.name)
	if err != nil || !h.on || h.cut || !h.state.Confirmed(h.boot) || s.rnd.IntN(4) > 0 {
		return
	}
	if host, _ := parse[HostSpec, HostStatus](o); host.Spec.Fenced || len(host.Spec.Revoke) > 0 ||
		slices.ContainsFunc(host.Spec.Blocks, func(b HostBlock) bool { return b.State == HostRevoked }) {
		return // a word of an operator's is there, which is not forgotten
	}
	if s.rnd.IntN(2) == 0 {
		s.store.Delete(s.ctx, o) // as one should: it goes when it has given back all that it has
		s.count["deleted"]++
		s.tell("%s is deleted", h.name)
		return
	}
	o.Finalizers = nil
	if o, err = s.store.Update(s.ctx, o); err == nil && !o.Deleting {
		s.store.Delete(s.ctx, o)
	}
	s.count["forgotten"]++
	s.tell("%s is deleted by force", h.name)
}

// one is a step: somebody goes on, or something happens.
func (s *sim) one() {
	s.step++
	s.now = s.now.Add(time.Duration(s.rnd.Int64N(int64(200 * time.Millisecond))))
	switch n := s.rnd.IntN(100); {
	case n < 12 && !s.calm:
		s.churn()
	case n < 14 && !s.calm:
		s.trouble()
	case n < 20 && len(s.late) > 0:
		i := s.rnd.IntN(len(s.late))
		s.late[i]()
		s.late = slices.Delete(s.late, i, i+1)
	case n < 50:
		s.lead[s.rnd.IntN(len(s.lead))].move(s.ctx)
	case n < 65:
		if r := s.relay[s.rnd.IntN(len(s.relay))]; r.on {
			r.move(s.ctx)
		}
	default:
		h := s.hosts[s.rnd.IntN(len(s.hosts))]
		if h.on {
			h.move(s.ctx)
		}
	}
	if s.step%4 == 0 {
		s.remember()
	}
}

// remember keeps what watches may tell later, or never.
func (s *sim) remember() {
	for _, h := range s.hosts {
		o, err := s.store.Get(s.ctx, Hosts, h.name)
		if err != nil || len(h.was) > 0 && h.was[len(h.was)-1].Version == o.Version {
			continue
		}
		if one, err := parse[HostSpec, HostStatus](o); err == nil {
			h.was = append(h.was, one)
			if len(h.was) > 12 {
				h.was = h.was[1:]
			}
		}
	}
}

// settle is what must be true when nothing goes wrong any more: what is lent is held, by
// the same loan, and who wants more than he has finds nothing left.
func (s *sim) settle() {
	s.calm = true
	for _, a := range s.lead {
		a.cut = false
	}
	for _, h := range s.hosts {
		if h.cut = false; !h.on {
			h.power(true)
		}
		s.putHost(h.name, func(o *Host) { o.Spec.Fenced, o.Spec.Drain, o.Spec.Revoke = false, false, nil })
	}
	for _, r := range s.relay {
		r.settle()
	}
	wrong := "nothing was looked at"
	for range 40 {
		for range 2000 {
			s.one()
		}
		if len(s.late) > 0 {
			continue
		}
		if wrong = s.unsettled(); wrong == "" {
			return
		}
	}
	s.fail("it does not settle: %s", wrong)
}

func (s *sim) unsettled() string {
	v, err := look(s.ctx, s.store)
	if err != nil {
		return err.Error()
	}
	held := map[string]string{}
	wants := map[string]int{}
	for _, h := range s.hosts {
		o := v.byHost[h.name]
		if o == nil || o.Status.Error != "" || !h.state.Confirmed(h.boot) && len(h.state.Blocks) > 0 {
			return fmt.Sprintf("%s: %+v", h.name, o)
		}
		for _, b := range h.state.Blocks {
			held[b.IPv4.String()] = fmt.Sprint(h.name, " ", b.Lease)
		}
		for _, p := range h.blocks().Pools {
			if !o.Deleting {
				wants[p.Pool] += p.Wanted
			}
		}
	}
	for _, b := range v.blocks {
		if held[b.Spec.IPv4] != fmt.Sprint(b.Spec.Host, " ", b.Spec.Lease) || b.Spec.State != Lent {
			return fmt.Sprintf("%+v: held: %q", b.Spec, held[b.Spec.IPv4])
		}
		delete(held, b.Spec.IPv4)
	}
	for _, r := range s.relay {
		if wrong := r.lacks(v.blocks); wrong != "" {
			return wrong
		}
	}
	if len(held) > 0 {
		return fmt.Sprintf("held, and not lent: %v", held)
	}
	for i := range v.pools {
		if block, some := newSource(&v.pools[i], v.claims()).next(); some && wants[v.pools[i].Name] > 0 {
			return fmt.Sprintf("room for %v is wanted, and there is %s", wants, block)
		}
	}
	return ""
}

// TestSimulation drives controllers, agents and stores through whatever can happen to
// them: crashes at each question, partitions, lost answers, writes that are made late,
// views that are old, clocks that are wrong, two that lead; and hosts that die, are
// fenced, and come back. At no step has an address two owners, or a workload lost what it
// was promised without an operator's word. Where it fails, -seed repeats it.
func TestSimulation(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d -steps %d", *seed, *steps)
	total, left, n := map[string]int{}, *steps, 0
	for left > 0 { // worlds of their own: each ends with a look at what it came to
		s := newSim(t, *seed+uint64(n))
		for range min(left, 5000) {
			s.one()
		}
		s.settle()
		for what, times := range s.count {
			total[what] += times
		}
		for _, a := range s.lead {
			a.kill()
		}
		for _, h := range s.hosts {
			h.kill()
		}
		for _, r := range s.relay {
			r.kill()
		}
		left, n = left-5000, n+1
	}
	t.Logf("%d worlds: %v", n, total)
	for _, what := range []string{"taken", "given up", "workloads", "fenced", "revoked", "conflicts", "forgotten",
		"rules", "fenced relays", "rules that are late", "sets", "deltas", "deltas refused", "changes heard of", "deleted"} {
		if *steps >= 200_000 && total[what] == 0 {
			t.Errorf("of %q there was nothing: this proves less than it says", what)
		}
	}
}
