//go:build linux

// Package shed decides who gives way when a host has more to do than it can. It meters
// what each workload brings to the daemon, and only while the host is overloaded; it
// works out what each may bring then; and it has what is over that dropped where it
// costs least: in front of the daemon's queues by a program in the kernel, or without
// one by the loops, first thing after a batch was read. It also holds workloads to
// limits that an operator set. How packets are translated may not enter here, nor who
// the workloads are to people.
package shed

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/natless/natless/translator/mapping"
)

// Way is where a workload's packets go.
type Way uint8

// The ways, each with limits of its own: what somebody sends to a workload leaves it
// what it sends itself.
const (
	Sent Way = iota
	Received
	NumWays
)

// rate is a rate by the generic cell rate algorithm (ITU-T I.371): so many ns for each
// 1024 units, and burst ns at once. The zero value is no limit.
type rate struct{ each, burst int64 }

// unit is what rates are reckoned in: 1024 of them are one packet or connection, one is
// one byte.
const unit = 1024

// rateOf is a rate of n a second, each of so many units; the largest that there is has most.
func rateOf(n float64, units, most int64) rate {
	if n <= 0 {
		return rate{}
	}
	each := max(int64(float64(time.Second)/n/float64(units)*unit), 1)
	return rate{each, max(int64(burst), most*each/unit)}
}

// burst is how much of a second's may come at once.
const burst = 20 * time.Millisecond

// after is until when a rate is used up once so many units have come; 0: it is.
func (r rate) after(until, now, units int64) int64 {
	if r.each == 0 {
		return now
	}
	next := max(until, now) + units*r.each/unit
	if next-now > r.burst {
		return 0
	}
	return next
}

// draining in a share's time says that it was used up: then nothing passes until all of it is
// there again. Who wakes up for one packet now and then has more to do than who gets as many
// at once.
const draining = 1

// share is after for a share, with the time to keep where it is used up.
func (r rate) share(until, now int64) (next int64, over bool) {
	if until&draining != 0 && until > now {
		return until, true
	}
	if next = r.after(until, now, unit); next == 0 {
		return until | draining, true
	}
	return next &^ draining, false
}

// rates are what one way of a workload may bring: what an operator allows, and its share of
// what the daemon does.
type rates struct{ packets, bytes, connections, share rate }

// limited is one way of a workload that has a limit. The kernel keeps its own account,
// and the loops keep theirs here: whoever sees a packet first judges it.
type limited struct {
	slot    uint32 // see Stranger
	way     Way
	mapping mapping.Mapping
	rates   atomic.Pointer[rates]
	entry   bool // in the kernel it is held where packets come in alone, if at all
	until   struct{ packets, bytes, connections, share atomic.Int64 }
	dropped atomic.Uint64 // by loops
	octets  atomic.Uint64 // of these

	// What follows is the governor's.
	capped        bool // an operator wants it so
	caps          Caps
	index         uint32
	inKernel      atomic.Bool
	kernelDropped dropped
	seen          uint64 // dropped, as of the last look
	seenOctets    uint64
	calm          int // looks since it was over
}

// dropped is what the kernel has dropped: in front of the queues, and where packets come in.
type dropped struct{ queue, entry, octets uint64 }

func (d dropped) all() uint64 { return d.queue + d.entry }

// over says that a packet is over a limit, and counts it. It is called by loops: the
// time is that of the batch.
func (l *limited) over(now int64, bytes int, opens bool) bool {
	r := l.rates.Load()
	wantPackets, wantBytes, wantConnections := l.until.packets.Load(), l.until.bytes.Load(), l.until.connections.Load()
	wantShare := l.until.share.Load()
	packets, octets, connections := r.packets.after(wantPackets, now, unit), r.bytes.after(wantBytes, now, int64(bytes)), now
	share, over := r.share.share(wantShare, now)
	if opens {
		connections = r.connections.after(wantConnections, now, unit)
	}
	if over {
		l.until.share.CompareAndSwap(wantShare, share)
	}
	if packets == 0 || octets == 0 || connections == 0 || over {
		l.dropped.Add(1)
		l.octets.Add(uint64(bytes))
		return true
	}
	// Where another loop was faster its packet counts, and this one does not: that is
	// a packet now and then.
	l.until.packets.CompareAndSwap(wantPackets, packets)
	l.until.bytes.CompareAndSwap(wantBytes, octets)
	l.until.share.CompareAndSwap(wantShare, share)
	if opens {
		l.until.connections.CompareAndSwap(wantConnections, connections)
	}
	return false
}

// gate is all that have a limit, for loops: a table with open addressing. Nobody changes one.
type gate []*limited

func newGate(all []*limited) gate {
	n := 16
	for n < 4*len(all) {
		n *= 2
	}
	g := make(gate, n)
	for _, l := range all {
		at := g.place(l.slot, l.way)
		for g[at] != nil {
			at = (at + 1) & uint32(n-1)
		}
		g[at] = l
	}
	return g
}

func (g gate) find(slot uint32, w Way) *limited {
	for at := g.place(slot, w); ; at = (at + 1) & uint32(len(g)-1) {
		if l := g[at]; l == nil || l.slot == slot && l.way == w {
			return l
		}
	}
}

func (g gate) place(slot uint32, w Way) uint32 {
	return (slot*uint32(NumWays) + uint32(w)) * 2654435761 >> 8 & uint32(len(g)-1)
}

// meter counts what each way of each workload brings to one loop.
type meter struct {
	mask  uint32
	cells [NumWays][]atomic.Uint64 // the slot that was counted last, and how many packets
}

// meterMost is how many workloads are metered each on its own. Of more, some share a
// place, and who is seen there last, which is who brings most, is held to what all
// of them bring.
const meterMost = 1 << 16

func newMeter(slots int) *meter {
	n := 64
	for n < slots+1 && n < meterMost { // the last one is strangers'
		n *= 2
	}
	m := &meter{mask: uint32(n - 1)}
	for w := range m.cells {
		m.cells[w] = make([]atomic.Uint64, n)
	}
	return m
}

func (m *meter) count(slot uint32, w Way) {
	c := &m.cells[w][slot&m.mask]
	c.Store(uint64(slot)<<32 | uint64(uint32(c.Load())+1)) // nobody else writes
}

// Queue is what one loop asks. Its methods but Thread belong to the loop.
type Queue struct {
	shed   *Shed
	device bool // packets have been by the policer in the kernel, where there is one
	gate   atomic.Pointer[gate]
	meter  atomic.Pointer[meter]

	spare *meter // the governor's

	batches uint32
	now     int64
	table   *mapping.Table
	edge    *mapping.Table // nil: the host is none
	g       gate
	m       *meter
}

// rousing is how many batches of a queue rouse a governor that rests.
const rousing = 256

// Begin says that a batch begins, at a time of any steady clock that all loops share,
// and whether there is anything to ask: nearly always, there is not.
func (q *Queue) Begin(now int64, table func() *mapping.Table) bool {
	if q.batches++; q.batches%rousing == 0 && q.shed.resting.Load() {
		q.shed.rouse()
	}
	g := q.gate.Load()
	if q.m = q.meter.Load(); g == nil && q.m == nil {
		return false
	}
	if g != nil {
		q.g = *g
	}
	q.now, q.table, q.edge = now, table(), q.shed.config.edge()
	return true
}

// End lets go of the table.
func (q *Queue) End() { q.table, q.edge, q.g, q.m = nil, nil, nil, nil }

// Over says that an IP packet is to be dropped before anything is done with it.
func (q *Queue) Over(b []byte) bool {
	slot, way, opens := whose(q.table, q.edge, b)
	return q.judge(slot, way, opens, len(b))
}

// OverInside is Over for an IPv4 packet of a workload that has its address inside.
func (q *Queue) OverInside(b []byte, from mapping.Tag) bool {
	e := q.table.Tagged(from)
	if e == nil || len(b) < 20 {
		return q.judge(0, Sent, false, len(b))
	}
	return q.judge(e.Slot(), Sent, b[9] == protoTCP && opens4(b), len(b))
}

func (q *Queue) judge(slot uint32, way Way, opens bool, bytes int) bool {
	if q.m != nil {
		q.m.count(slot, way)
	}
	if q.g == nil {
		return false
	}
	l := q.g.find(slot, way)
	if l == nil || q.device && l.inKernel.Load() && !l.entry {
		return false
	}
	return l.over(q.now, bytes, opens)
}

// Shed is the governor with its queues. It is a task.
type Shed struct {
	config Config
	queues []*Queue
	ready  chan struct{}
	kick   chan struct{} // has an element when operators want something else
	governor

	resting atomic.Bool   // the governor waits until loops have something to do
	roused  chan struct{} // has an element when they have

	kernel atomic.Uint64 // dropped in front of the queues

	mu     sync.RWMutex // guards what follows
	totals map[uint32]*[NumWays]uint64
	octets map[uint32]*[NumWays]uint64 // of totals
	status Status
	wishes map[netip.Prefix]Wish // by the IPv6 prefix of a mapping
	wished bool                  // they have changed
}

// Status is how it stands.
type Status struct {
	Overloaded bool
	Packets    float64 // a second that each way of a workload may bring; 0: as many as it likes
	Kernel     bool    // what is over that is dropped in front of the queues
	Limited    []Limited
}

// Limited is one way of a workload that gives way, or of strangers.
type Limited struct {
	Slot    uint32
	Way     Way
	Dropped uint64
}

// Dropped is how many packets were ever dropped at a slot, whoever had it; 0 is strangers'.
func (s *Shed) Dropped(slot uint32) (n [NumWays]uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if t := s.totals[slot]; t != nil {
		n = *t
	}
	return n
}

// GivesWay is who a packet is of, if that one gives way just now, and how many packets he
// gave way with. Of a workload with IPv4 inside the tag says who sent it; 0: it came as any
// packet does.
func (s *Shed) GivesWay(b []byte, from mapping.Tag) (l Limited, ok bool) {
	table := s.config.Table()
	slot, way, _ := whose(table, s.config.edge(), b)
	if from != 0 {
		if e := table.Tagged(from); e != nil {
			slot, way = e.Slot(), Sent
		}
	}
	for _, l := range s.Status().Limited {
		if l.Slot == slot && l.Way == way {
			return l, true
		}
	}
	return l, false
}

// Each gives all slots at which packets were ever dropped, with how many and of how many
// bytes, as they came; 0 is strangers'.
func (s *Shed) Each(f func(slot uint32, packets, bytes [NumWays]uint64)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for slot, t := range s.totals {
		f(slot, *t, *s.octets[slot])
	}
}

// Kernel is how many packets were dropped in front of the queues, which the kernel counts as
// dropped by the device.
func (s *Shed) Kernel() uint64 { return s.kernel.Load() }

// Total is how many packets were ever dropped.
func (s *Shed) Total() (n [NumWays]uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.totals {
		for w := range t {
			n[w] += t[w]
		}
	}
	return n
}

// Status says how it stands.
func (s *Shed) Status() Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.status
}
