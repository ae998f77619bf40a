//go:build linux

package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/budget"
	"github.com/natless/natless/translator/mapping"
)

// Bounds of what waits for an assignment. Beyond them the sender is told that it has none.
const (
	firstUseSenders = 256     // at once
	firstUsePackets = 4       // of one sender; further ones are dropped: it will send again
	firstUseBytes   = 4 << 20 // of all
	firstUseAtOnce  = 8       // assignments that are made at once: what they wait for is the disk
)

// firstUseInterface is the interface of the keys of those who have an assignment by first
// use; the container is firstUsePrefix and the address in hexadecimal digits.
const (
	firstUseInterface = "first-use"
	firstUsePrefix    = "first-use-"
)

func firstUseKey(a netip.Addr) api.Key {
	b := a.As16()
	return api.Key{ContainerID: firstUsePrefix + hex.EncodeToString(b[:]), Interface: firstUseInterface}
}

// byFirstUse reports whether an assignment was made by first use.
func byFirstUse(k api.Key) bool {
	return k.Interface == firstUseInterface && strings.HasPrefix(k.ContainerID, firstUsePrefix)
}

// firstUse gives assignments to sources that nobody announced, when their first packet
// comes, and takes them back when they have been idle for long. What it gives is as any
// other assignment is: in the registry, and told to whoever is told of those.
type firstUse struct {
	keeper     *keeper
	engine     *engine.Host
	running    func() *config.Config
	activity   func(netip.Prefix) (packets uint64, known bool) // of a mapping
	translator *translator.Translator
	log        *slog.Logger
	queue      chan netip.Addr
	seed       maphash.Seed
	each       budget.Shares // by /64
	all        budget.Bucket

	reserving sync.Mutex // one after the other counts whom there is room for

	mu      sync.Mutex // guards what follows
	waiting map[netip.Addr]*waiting
	bytes   int
	mine    map[api.Key]*user
	byPool  map[string]int // of mine, and being made
	making  map[string]int // of those, by pool
	byNet   map[netip.Prefix]int
	counts  firstUseCounts
	said    map[string]time.Time // when a reason was in the log last
	looked  time.Time            // at the rules against spoofed sources
	rules   bool                 // they were there
}

// waiting is what a sender's packets wait for.
type waiting struct{ packets []*translator.Packet }

// user is somebody who has an assignment by first use.
type user struct {
	serial  uint64
	addr    netip.Addr
	pool    string
	packets uint64    // as counted last
	known   bool      // they could be counted
	active  time.Time // when it was last seen to do something, or nobody could say that it did not
}

// firstUseCounts are since the start.
type firstUseCounts struct {
	Given, GivenBack, Dropped uint64
	Refused                   map[string]uint64 // by reason
}

// The reasons why a source gets nothing.
const (
	refusedRate    = "rate"   // too many begin at once
	refusedPrefix  = "prefix" // its /64 has as many as it may have
	refusedMost    = "most"   // the pool has given as many by first use as it may
	refusedFull    = "pool-full"
	refusedDrained = "drained"
	refusedTaken   = "taken" // a workload that was announced has the address
	refusedGuard   = "unguarded"
	refusedError   = "error"
)

var firstUseReasons = []string{refusedRate, refusedPrefix, refusedMost, refusedFull, refusedDrained, refusedTaken, refusedGuard, refusedError}

func newFirstUse(k *keeper, running func() *config.Config, log *slog.Logger) *firstUse {
	f := &firstUse{keeper: k, running: running, log: log, queue: make(chan netip.Addr, firstUseSenders), seed: maphash.MakeSeed(),
		waiting: map[netip.Addr]*waiting{}, mine: map[api.Key]*user{}, byPool: map[string]int{}, making: map[string]int{}, byNet: map[netip.Prefix]int{},
		counts: firstUseCounts{Refused: map[string]uint64{}}, said: map[string]time.Time{}}
	for a := range k.Each() {
		if byFirstUse(a.Key) {
			f.come(a.Clone())
		}
	}
	return f
}

// serve ties it to the host that packets come from.
func (f *firstUse) serve(h *engine.Host) {
	f.engine, f.activity, f.translator = h, h.Activity, h.Translator
}

// changed follows the registry: whoever gave or took an assignment.
func (f *firstUse) changed(c registry.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Old != nil && byFirstUse(c.Old.Key) {
		if u := f.mine[c.Old.Key]; u != nil {
			f.uncount(u.pool, u.addr)
			delete(f.mine, c.Old.Key)
		}
	}
	if c.New != nil && byFirstUse(c.New.Key) {
		f.come(c.New)
	}
}

// come notes who has something. From now on it is active: whether it was before, nobody knows.
func (f *firstUse) come(a *registry.Assignment) {
	u := &user{serial: a.Serial, addr: a.Request.IPv6[0], pool: a.Pool, active: time.Now()}
	f.mine[a.Key] = u
	f.byPool[u.pool]++
	f.byNet[netOf(u.addr)]++
}

func (f *firstUse) uncount(pool string, a netip.Addr) {
	f.byPool[pool]--
	if n := netOf(a); f.byNet[n] > 1 {
		f.byNet[n]--
	} else {
		delete(f.byNet, n)
	}
}

// netOf is what sources are counted together by.
func netOf(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(64)
	return p
}

// pool is the pool that a source gets something of; nil: none, any more.
func (f *firstUse) pool(a netip.Addr) *config.Pool {
	c := f.running()
	for i := range c.Pools {
		for _, s := range c.Pools[i].FirstUse.Sources {
			if s.Contains(a) {
				return &c.Pools[i]
			}
		}
	}
	return nil
}

// offer takes a copy of a packet whose sender has no assignment. Loops call it, and it
// waits for nothing but a moment of another loop's.
func (f *firstUse) offer(p *translator.Packet) bool {
	b := p.Bytes()
	a := netip.AddrFrom16([16]byte(b[8:24]))
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting[a]
	switch {
	case w != nil && (len(w.packets) >= firstUsePackets || f.bytes+len(b) > firstUseBytes):
		f.counts.Dropped++
		return true
	case w == nil && (len(f.waiting) >= firstUseSenders || f.bytes+len(b) > firstUseBytes || !f.affords(a)):
		f.refused(refusedRate, a)
		return false
	case w == nil:
		w = new(waiting)
		f.waiting[a] = w
		f.queue <- a // there is room: as many as may wait
	}
	f.bytes += len(b)
	w.packets = append(w.packets, copied(p))
	return true
}

// copied is a packet with room around it.
func copied(p *translator.Packet) *translator.Packet {
	b := p.Bytes()
	q := &translator.Packet{Buf: make([]byte, translator.Headroom+len(b)+translator.Tailroom), Start: translator.Headroom, Offload: p.Offload}
	q.End = q.Start + copy(q.Buf[q.Start:], b)
	return q
}

// affords takes a beginning from the budgets: of its /64, then of all.
func (f *firstUse) affords(a netip.Addr) bool {
	pool := f.pool(a)
	if pool == nil {
		return false
	}
	rate := pool.FirstUse.Rate
	one := budget.Rate{PerSecond: rate, Burst: max(2*rate, 16)}
	all := budget.Rate{PerSecond: 10 * one.PerSecond, Burst: 10 * one.Burst}
	now, random := int64(time.Since(began)), rand.Uint64()
	return f.each.Take(maphash.Comparable(f.seed, netOf(a)), now, one, random) && f.all.Take(now, all, random>>32)
}

// refused counts who gets nothing, and says so at times. The caller holds the lock.
func (f *firstUse) refused(reason string, a netip.Addr) {
	f.counts.Refused[reason]++
	if time.Since(f.said[reason]) > time.Minute {
		f.said[reason] = time.Now()
		f.log.Warn("a source gets no assignment by first use; this is said once a minute", "source", a, "reason", reason)
	}
}

// Ready is always: without a source it has nothing to do.
func (f *firstUse) Ready() <-chan struct{} { return always() }

// Run gives and takes back until ctx is done.
func (f *firstUse) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for range firstUseAtOnce {
		group.Go(func() {
			driver := f.driver()
			for {
				select {
				case <-ctx.Done():
					return
				case a := <-f.queue:
					f.decide(ctx, driver, a)
				}
			}
		})
	}
	group.Go(func() { f.takeBack(ctx) })
	group.Wait()
	return nil
}

func (f *firstUse) driver() *dataplane.Driver {
	return dataplane.NewDriver(f.translator.NewWorker(), &firstUsePort{engine: f.engine}, nil)
}

// decide gives a source an assignment, or none, and sends on what waited for it.
func (f *firstUse) decide(ctx context.Context, driver *dataplane.Driver, a netip.Addr) {
	reason := f.give(ctx, a)
	f.mu.Lock()
	w := f.waiting[a]
	delete(f.waiting, a)
	for _, p := range w.packets {
		f.bytes -= len(p.Bytes())
	}
	if reason == "" {
		f.counts.Given++
	} else {
		f.refused(reason, a)
	}
	f.mu.Unlock()
	driver.Now()
	for _, p := range w.packets {
		if reason == "" {
			driver.Move(p)
		} else {
			driver.Refuse(p)
		}
	}
	driver.Done()
}

// give makes an assignment; the reason says why it does not.
func (f *firstUse) give(ctx context.Context, a netip.Addr) (reason string) {
	if f.engine.Table().Lookup6(mapping.Addr6From(a)) != nil {
		return "" // somebody else has, meanwhile
	}
	pool := f.pool(a)
	if pool == nil {
		return refusedError
	}
	if !f.guarded() {
		return refusedGuard // a source is believed where the route back to it leads
	}
	if reason := f.reserve(pool, a); reason != "" {
		return reason
	}
	defer f.made(pool.Name, a)
	name := firstUseInterface + "/" + a.String()
	given, err := f.keeper.Registry.Put(ctx, firstUseKey(a), api.Request{Name: name, Pool: pool.Name, IPv6: []netip.Addr{a},
		Inside: api.IPv4Prefix, Labels: map[string]string{api.FirstUseLabel: pool.Name}})
	var conflict *registry.ConflictError
	var full *registry.ExhaustedError
	var drained *registry.DrainedError
	switch {
	case err == nil:
		f.log.Info("a source got an assignment by first use", "source", a, "pool", pool.Name, "address", given.Address, "ports", given.Ports)
		select {
		case f.keeper.put <- struct{}{}:
		default:
		}
		return ""
	case errors.As(err, &conflict):
		return refusedTaken
	case errors.As(err, &full):
		return refusedFull
	case errors.As(err, &drained):
		return refusedDrained
	}
	f.log.Error("an assignment by first use", "source", a, "error", err)
	return refusedError
}

// guarded reports whether the rules are there by which a source comes only where the route
// back to it leads, as of a second ago.
func (f *firstUse) guarded() bool {
	f.mu.Lock()
	at, was := f.looked, f.rules
	f.mu.Unlock()
	if was && time.Since(at) < time.Second {
		return true
	}
	spoofing, err := route.ReadAntiSpoofing()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked, f.rules = time.Now(), err == nil && spoofing.Installed
	return f.rules
}

// reserve counts who is about to get something among those who have, if it may. Of the room
// that the pool has, what is being made is not there any more; what has been made meanwhile
// may count twice, which leaves a source without for this time.
func (f *firstUse) reserve(pool *config.Pool, a netip.Addr) (reason string) {
	f.reserving.Lock()
	defer f.reserving.Unlock()
	f.mu.Lock()
	making := f.making[pool.Name]
	f.mu.Unlock()
	room := f.headroom(pool.Name) - making
	f.mu.Lock()
	defer f.mu.Unlock()
	has, rules := f.byPool[pool.Name], pool.FirstUse
	switch {
	case f.byNet[netOf(a)] >= rules.MostPerPrefix:
		return refusedPrefix
	case rules.Most > 0 && has >= rules.Most, rules.Most == 0 && has >= room && room+making > 0:
		return refusedMost // with no other word, as many are left for others as there are by first use
	}
	f.byPool[pool.Name]++
	f.byNet[netOf(a)]++
	f.making[pool.Name]++
	return ""
}

// made ends what reserve began: who has something by now is counted as such.
func (f *firstUse) made(pool string, a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uncount(pool, a)
	f.making[pool]--
}

// headroom is how many more workloads a pool has room for.
func (f *firstUse) headroom(pool string) int {
	for _, p := range f.keeper.Pools() {
		if p.Name == pool {
			return p.Headroom
		}
	}
	return 0
}

// firstUsePort sends what waited by the device.
type firstUsePort struct{ engine *engine.Host }

// Buffer is the port's.
func (p *firstUsePort) Buffer() *translator.Packet { return new(tun.Buffers).Buffer() }

// Release is the port's: they are few, and of any size.
func (p *firstUsePort) Release(*translator.Packet) {}

// Send is the port's.
func (p *firstUsePort) Send(q *translator.Packet, _ translator.Verdict) {
	_ = p.engine.Dataplane.Inject(q) // without a device it is lost, as all is
}

// Deliver is the port's.
func (p *firstUsePort) Deliver(q *translator.Packet, to mapping.Tag, _ translator.Verdict) {
	_ = p.engine.Dataplane.InjectInside(q, to)
}

// Local is the port's: who writes to natlessd itself needs no assignment.
func (p *firstUsePort) Local(*translator.Packet) {}
