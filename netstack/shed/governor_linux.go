package shed

import (
	"context"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/translator/mapping"
)

const (
	every = 100 * time.Millisecond
	// window is over how many looks processors are judged: the kernel's ticks are coarse.
	window = 3
	// patience is how many looks somebody is limited for after he was over last.
	patience = 20
	// seldom is after how many looks it is read what operators' limits have come to.
	seldom = 10
	// remember is for how many looks a neighbour is remembered.
	remember = 100
	// calm is how many looks at which there was nothing to do let the governor rest.
	calm = 30
)

// Plane is what the governor asks of a dataplane.
type Plane interface {
	// Worked is how much of processors' time the loops have used, and how many small
	// packets that stands for.
	Worked() (spent time.Duration, packets float64)
	// Lost is how many packets found the device's queues full, or were dropped in front of them.
	Lost() uint64
	// Police puts a program in front of the queues; -1: none.
	Police(program int) error
}

// Config is what the governor works with.
type Config struct {
	Table func() *mapping.Table
	// Edge has the host's addresses on a fabric without IPv4; nil, or a nil table: there is none.
	Edge  func() *mapping.Table
	Plane Plane // the device whose packets the policer in the kernel sees
	// Elsewhere is how many packets were translated without the daemon; nil: none.
	Elsewhere func() uint64
	// Maps are those of the policer where packets come in; nil: there is none.
	Maps map[string]*ebpf.Map
	// Tell tells others that share something out what Status.Packets is; nil: there are none.
	Tell func(packets float64)
	Off  bool // nobody gives way but to an operator's limits
	Log  *slog.Logger
}

func (c *Config) edge() *mapping.Table {
	if c.Edge == nil {
		return nil
	}
	return c.Edge()
}

// New makes a governor. It loads the policer, if the kernel lets it.
func New(c Config) (*Shed, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Shed{config: c, ready: make(chan struct{}), kick: make(chan struct{}, 1), roused: make(chan struct{}, 1), totals: map[uint32]*[NumWays]uint64{},
		octets: map[uint32]*[NumWays]uint64{},
		wishes: map[netip.Prefix]Wish{}}
	var err error
	if s.processors, err = openProcessors(); err != nil {
		return nil, err
	}
	if s.filter, err = newFilter(c.Maps); err != nil {
		c.Log.Info("what is over its limits is dropped by the daemon's loops", "not", err)
	}
	return s, nil
}

// NewQueue makes what a loop asks. device says that its packets came by the device that
// the policer stands in front of.
func (s *Shed) NewQueue(device bool) *Queue {
	q := &Queue{shed: s, device: device}
	s.queues = append(s.queues, q)
	return q
}

// Ready is closed when operators' limits are in force.
func (s *Shed) Ready() <-chan struct{} { return s.ready }

// Run looks ten times a second until ctx is done, and rests while the loops have next to
// nothing to do.
func (s *Shed) Run(ctx context.Context) error {
	s.follow()
	close(s.ready)
	tick := time.NewTicker(every)
	defer tick.Stop()
	defer s.end()
	for quiet := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
			s.follow()
		case <-s.roused:
		case <-tick.C:
			if quiet++; !s.look(time.Now()) {
				quiet = 0
			}
			if quiet >= calm {
				s.before = seen{}
				tick.Stop()
				s.resting.Store(!s.config.Off)
			}
			continue
		}
		quiet = 0
		s.resting.Store(false)
		tick.Reset(every)
	}
}

// rouse has the governor look again. It is called by loops, once for each rest.
func (s *Shed) rouse() {
	if s.resting.CompareAndSwap(true, false) {
		select {
		case s.roused <- struct{}{}:
		default:
		}
	}
}

// end leaves nobody limited but by an operator, where programs go on without a daemon.
func (s *Shed) end() {
	s.level = level{}
	s.note()
	s.refresh()
	s.install(false)
	s.processors.close()
	if s.filter != nil {
		s.filter.close()
	}
}

// seen is what was read at a look.
type seen struct {
	at          time.Time
	spent       time.Duration
	packets     float64
	idle, ticks uint64
	lost        uint64 // with those that were policed
	policed     uint64
	elsewhere   uint64
}

// governor is what is known from one look to the next.
type governor struct {
	processors *processors
	filter     *filter // nil: there is none
	installed  bool
	past       []seen // the last looks, while there is something to judge
	before     seen   // the last look
	level      level
	metering   bool
	fresh      bool // metering has begun since the last look
	limited    []*limited
	gone       uint64 // dropped in the kernel of those who have no limit any more
	complained bool
	turn       int
	company    int            // looks until somebody has the host to himself
	weighted   bool           // some workload has a priority of its own
	table      *mapping.Table // as of the last look
}

// look is one look. While the daemon has little to do it reads a few clocks, and
// nothing else; quiet says so, and that nobody has a limit.
func (s *Shed) look(now time.Time) (quiet bool) {
	s.follow()
	if s.filter != nil {
		s.filter.forget()
	}
	spent, packets := s.config.Plane.Worked()
	n := seen{at: now, spent: spent, packets: packets}
	before := s.before
	s.before = n
	if before.at.IsZero() {
		return false
	}
	light := measured{over: now.Sub(before.at), cpus: float64(runtime.NumCPU()), spent: spent - before.spent}
	if s.config.Off || !s.metering && s.level.packets == 0 && light.part() < notable {
		s.past = s.past[:0]
		s.settle()
		return s.unlimited()
	}
	m, ok := s.measure(&n)
	if !ok {
		return false
	}
	s.govern(&m)
	s.note()
	return false
}

// unlimited says that nobody has a limit, nor is to have one.
func (s *Shed) unlimited() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.limited) == 0 && len(s.wishes) == 0
}

// measure compares this look with one that is a few looks old.
func (s *Shed) measure(n *seen) (m measured, ok bool) {
	var err error
	if n.idle, n.ticks, err = s.processors.read(); err != nil {
		return m, false
	}
	n.policed = s.policed() // first: what is dropped meanwhile must not be taken for lost before
	n.lost = s.config.Plane.Lost()
	if s.config.Elsewhere != nil {
		n.elsewhere = s.config.Elsewhere()
	}
	s.past = append(s.past, *n)
	if len(s.past) <= window {
		return m, false
	}
	last, then := s.past[window-1], s.past[0]
	s.past = slices.Delete(s.past, 0, 1)
	m = measured{over: n.at.Sub(then.at), cpus: float64(runtime.NumCPU()), spent: n.spent - then.spent, packets: n.packets - then.packets}
	m.lost = lost(n, &last) * window // in the last look, as if it had been in all of them
	if n.ticks > then.ticks {
		m.idle = float64(n.idle-then.idle) / float64(n.ticks-then.ticks)
	}
	m.fastPath = s.config.Elsewhere != nil
	m.elsewhere = n.elsewhere > last.elsewhere+uint64(every.Milliseconds()/10)
	return m, true
}

// lost is what was lost in front of the queues from one look to the next. The kernel counts
// with it what is policed, which goes on while both are read.
func lost(now, before *seen) uint64 {
	const racing = 50 // part of them
	all, policed := int64(now.lost-before.lost), int64(now.policed-before.policed)
	if n := all - policed; n > policed/racing {
		return uint64(n)
	}
	return 0
}

// govern does what a look at a host that has something to do comes to.
func (s *Shed) govern(m *measured) {
	overloaded := m.scarce() && m.part() >= notable
	switch {
	case s.level.packets == 0 && !overloaded:
		s.meter(false)
		s.settle()
		return
	case !s.metering:
		s.meter(true)
		return
	}
	demands := s.demands()
	dropped := s.collect() > 0
	if s.fresh { // of less than a look
		s.fresh = false
		return
	}
	if m.elsewhere || company(demands) {
		s.company = remember
	}
	s.company--
	m.company = s.company > 0
	if s.level.packets == 0 {
		if s.level.begin(m, demands); s.level.packets > 0 {
			s.config.Log.Warn("the host is overloaded: who brings most gives way", "packets_per_second", int(s.level.packets))
		}
	} else {
		s.level.step(m, demands, dropped)
		if s.level.packets == 0 {
			s.config.Log.Info("the host is not overloaded any more")
		}
	}
	s.enforce(demands)
}

// meter begins and ends to count who brings what.
func (s *Shed) meter(on bool) {
	if on == s.metering {
		return
	}
	s.metering, s.fresh = on, on
	for _, q := range s.queues {
		var m *meter
		if on {
			slots := s.config.Table().Slots()
			m, q.spare = newMeter(slots), newMeter(slots)
		} else {
			q.spare = nil
		}
		q.meter.Store(m)
	}
}

// demands are what came since the last look, with what was dropped in the kernel.
func (s *Shed) demands() (all []demand) {
	sums := [NumWays]map[uint32]uint64{{}, {}}
	for _, q := range s.queues {
		full := q.meter.Load()
		q.meter.Store(q.spare)
		q.spare = full
		for w := range full.cells {
			for i := range full.cells[w] {
				if v := full.cells[w][i].Load(); v != 0 {
					sums[w][uint32(v>>32)] += v & 0xffffffff
					full.cells[w][i].Store(0)
				}
			}
		}
	}
	for _, l := range s.limited {
		if l.inKernel.Load() {
			sums[l.way][l.slot] += s.filter.dropped(l).all() - l.kernelDropped.all()
		}
	}
	for w := range sums {
		for slot, n := range sums[w] {
			all = append(all, demand{slot, Way(w), float64(n) / every.Seconds(), s.weight(slot)})
		}
	}
	return all
}
