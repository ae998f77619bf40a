package flows

import (
	"context"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Record is a flow that has ended, or a part of one that goes on.
type Record struct {
	Key
	Sum
	Start, End time.Time
	Reason     Reason
	Sample     int    // one of so many packets was counted; 1: each one
	Owner      any    // what Config.Owner said
	Rule       string // what Config.Rule said of Sum.Rule
}

// Source is where tables are filled.
type Source interface {
	// Drain takes away what was seen since the last time.
	Drain(flow func(*Key, *Sum), lost func(slot uint32, n Lost)) error
	// Presses says that it should be drained soon.
	Presses() bool
}

// Sink gets records, in the order of their ends.
type Sink interface {
	// Put never waits: what cannot be taken is counted. Nobody changes a batch.
	Put(batch []Record)
	// Room says that another batch would be taken.
	Room() bool
}

// Config is what a collector is made from.
type Config struct {
	Limits
	Sample  int // what the sources were made with; 0 is 1
	Sources []Source
	// Owner is whose an address and port was at a time, by slot where the port says
	// nothing (0). It is called often, for few slots.
	Owner func(slot uint32, local netip.AddrPort, at time.Time) any
	// Name is what an owner is told by.
	Name func(owner any) string
	// Rule is what a rule of policies is called, by its serial.
	Rule  func(serial uint32) string
	Sinks []Sink
	Log   *slog.Logger
}

const (
	// drainEvery is how often tables are taken away, and pressEvery how often one
	// that fills fast may be.
	drainEvery = 2 * time.Second
	pressEvery = 100 * time.Millisecond
	// batch is how many records go to the sinks at once.
	batch = 512
	// forSinks is how long those who take records may take in one pass, in which very
	// many flows may end, and endForSinks in the last one. No packet waits meanwhile.
	forSinks    = 100 * time.Millisecond
	endForSinks = 5 * time.Second
	// told is of how many workloads it is known what was lost of them.
	told = 1024
	// refusedMost is how many flows that were denied may be open beside the others, and
	// refusedEach how many of one workload.
	refusedMost = 16_384
	refusedEach = refusedMost / 16
)

// Stats is what a collector has done since the start.
type Stats struct {
	Open, Most int
	Denied     int // open, beside the others, that policies denied
	Records    map[Reason]uint64
	Lost       Lost            // found no room in the tables of queues or kernel, or among the open flows
	By         map[string]Lost // by Config.Name
	LastLost   time.Time
	Stuck      uint64 // times that a source could not be drained
}

// Collector is a task: Run it once.
type Collector struct {
	config Config
	ready  chan struct{}

	shown atomic.Pointer[Stats] // as of the last pass: nobody waits for the one under way

	mu     sync.Mutex // guards what follows; no packet waits for it
	open   *Open
	denied *Open // what policies denied
	clock  Clock
	out    []Record
	stats  Stats
	soon   atomic.Bool
	until  time.Time // sinks may take their time
}

// NewCollector makes a collector.
func NewCollector(c Config) *Collector {
	apart := Limits{Idle: c.Idle, Active: c.Active, Most: refusedMost, Share: refusedEach}
	made := &Collector{config: c, ready: make(chan struct{}), open: NewOpen(c.Limits), denied: NewOpen(apart), clock: NewClock(),
		stats: Stats{Most: c.Most, Records: map[Reason]uint64{}, By: map[string]Lost{}}}
	made.show()
	return made
}

// Ready is closed when it collects.
func (c *Collector) Ready() <-chan struct{} { return c.ready }

// Run collects until ctx is done; then all open flows end.
func (c *Collector) Run(ctx context.Context) error {
	c.pass() // what a process before has left
	close(c.ready)
	tick := time.NewTicker(pressEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			c.pass()
			c.end()
			return nil
		case <-tick.C:
			if time.Since(last) >= drainEvery || c.presses() {
				last = time.Now()
				c.pass()
			}
		}
	}
}

// Soon asks for what was seen to be collected at once, such as that of a workload
// which is about to be forgotten.
func (c *Collector) Soon() { c.soon.Store(true) }

func (c *Collector) presses() bool {
	if c.soon.Swap(false) {
		return true
	}
	for _, s := range c.config.Sources {
		if s.Presses() {
			return true
		}
	}
	return false
}

// pass drains all sources and closes what has ended by now.
func (c *Collector) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.show()
	now := Now()
	c.clock, c.until = NewClock(), time.Now().Add(forSinks)
	for _, s := range c.config.Sources {
		err := s.Drain(c.merge, func(slot uint32, n Lost) { c.lose(slot, netip.AddrPort{}, n) })
		if err != nil {
			c.stats.Stuck++
			c.config.Log.Warn("flows are not collected everywhere", "error", err)
		}
	}
	c.open.Expire(now, c.emit)
	c.denied.Expire(now, c.emit)
	c.flush()
}

func (c *Collector) merge(k *Key, s *Sum) {
	packets := s.Packets[Sent] + s.Packets[Received]
	if k.refused() {
		if !c.denied.Merge(k, s, c.owner) {
			c.lose(k.Slot, k.LocalAddr(), Lost{Denied: packets})
		}
	} else if !c.open.Merge(k, s, c.owner) {
		c.lose(k.Slot, k.LocalAddr(), Lost{Packets: packets, Bytes: s.Bytes[Sent] + s.Bytes[Received]})
	}
}

func (c *Collector) lose(slot uint32, local netip.AddrPort, n Lost) {
	now := time.Now()
	if n.Packets > 0 {
		if now.Sub(c.stats.LastLost) > time.Minute {
			c.config.Log.Warn("flows found no room and are not itemised: natless status says whose", "packets", n.Packets)
		}
		c.stats.LastLost = now
	}
	c.stats.Lost.add(n)
	who := c.config.Name(c.config.Owner(slot, local, now))
	by, known := c.stats.By[who]
	if !known && len(c.stats.By) >= told {
		return
	}
	by.add(n)
	c.stats.By[who] = by
}

func (c *Collector) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.show()
	c.until = time.Now().Add(endForSinks)
	c.open.End(c.emit)
	c.denied.End(c.emit)
	c.flush()
}

// owner is whose a flow is.
func (c *Collector) owner(k *Key, s *Sum) any {
	return c.config.Owner(k.Slot, k.LocalAddr(), c.clock.At(s.Last))
}

// record says what is known of a flow.
func (c *Collector) record(k *Key, s *Sum, owner any, why Reason) Record {
	r := Record{Key: *k, Sum: *s, Start: c.clock.At(s.First), End: c.clock.At(s.Last), Reason: why,
		Sample: max(c.config.Sample, 1), Owner: owner}
	if k.Verdict == Shed {
		r.Sample = 1 // these are counted one by one
	}
	if s.Rule != 0 && c.config.Rule != nil {
		r.Rule = c.config.Rule(s.Rule)
	}
	return r
}

func (c *Collector) emit(k *Key, s *Sum, owner any, why Reason) {
	c.stats.Records[why]++
	if c.out = append(c.out, c.record(k, s, owner, why)); len(c.out) == batch {
		c.flush()
	}
}

func (c *Collector) flush() {
	if len(c.out) == 0 {
		return
	}
	for _, sink := range c.config.Sinks {
		for !sink.Room() && time.Now().Before(c.until) {
			time.Sleep(time.Millisecond)
		}
		sink.Put(c.out)
	}
	c.out = nil
}

// Open yields the flows that are open, as far as they were collected, and that wanted
// wants: a part at a time, so that neither collecting waits for all of them, nor memory
// is needed for more. One that is open all the while is there once; one that begins or
// ends meanwhile may be there or not. Nobody keeps what is yielded.
func (c *Collector) Open(wanted func(*Record) bool) iter.Seq[[]Record] {
	return func(yield func([]Record) bool) {
		for _, open := range []*Open{c.open, c.denied} {
			if !c.parts(open, wanted, yield) {
				return
			}
		}
	}
}

// parts yields the parts of some that are open.
func (c *Collector) parts(open *Open, wanted func(*Record) bool, yield func([]Record) bool) bool {
	var some []Record
	for n, more := 0, true; more; n++ {
		some = some[:0]
		c.mu.Lock()
		more = open.Part(n, func(k *Key, s *Sum, owner any) {
			if r := c.record(k, s, owner, 0); wanted(&r) {
				some = append(some, r)
			}
		})
		c.mu.Unlock()
		if len(some) > 0 && !yield(some) {
			return false
		}
	}
	return true
}

// Collect has everything collected that was seen before the call.
func (c *Collector) Collect() { c.pass() }

// show has Stats tell of what was done until now.
func (c *Collector) show() {
	s := c.stats
	s.Open, s.Denied = c.open.Len(), c.denied.Len()
	s.Records, s.By = maps.Clone(s.Records), maps.Clone(s.By)
	c.shown.Store(&s)
}

// Stats says what was done until the end of the last pass. Nobody changes it.
func (c *Collector) Stats() Stats { return *c.shown.Load() }
