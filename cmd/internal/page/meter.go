//go:build linux

package page

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/natless/natless/netstack/accounting"
)

// meter is what every workload had used at the last two views. It forgets when nobody
// looks any more. Where the fast path counts, reading all is a system call for each
// workload and processor: who looks does not wait for that for long, and a page that is
// left open takes a small part of a processor's time.
type meter struct {
	patience time.Duration // how long somebody waits for a reading; 0: usualPatience

	mu      sync.Mutex // guards what follows
	last    readings
	pair    pair
	reading chan struct{} // closed when the reading under way is there; nil: there is none
	cost    time.Duration // of the last reading
	forget  *time.Timer
}

const (
	usualPatience = 50 * time.Millisecond
	firstPatience = 2 * time.Second // where there is nothing to be shown instead
	restFactor    = 10              // times what a reading took there is none
)

// readings are what all had used at a time, by serial.
type readings struct {
	at  time.Time
	all []reading
}

type reading struct {
	serial uint64
	accounting.Usage
}

// pair is what all have used, and did since the reading before, by serial. Nobody
// changes it.
type pair struct {
	all     []worker
	seconds float64 // between the readings; 0: there is one only
}

// worker is one of them.
type worker struct {
	serial uint64
	busy
}

// meterSpan is how old a reading is at least before there is another: of many
// workloads one takes a while.
const meterSpan = time.Second

// look has all read anew unless the last reading is too young, and gives the last two
// that there are.
func (m *meter) look(now time.Time, read func() iter.Seq2[uint64, accounting.Usage]) pair {
	m.mu.Lock()
	if m.reading == nil && (m.last.all == nil || now.Sub(m.last.at) >= max(meterSpan, restFactor*m.cost)) {
		m.reading = make(chan struct{})
		go m.read(now, read, m.reading)
	}
	under, patience := m.reading, cmp.Or(m.patience, usualPatience)
	if m.last.all == nil {
		patience = max(patience, firstPatience)
	}
	m.mu.Unlock()
	if under != nil {
		select {
		case <-under:
		case <-time.After(patience):
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pair
}

// read reads all.
func (m *meter) read(now time.Time, read func() iter.Seq2[uint64, accounting.Usage], done chan struct{}) {
	began := time.Now()
	all := make([]reading, 0, 64)
	for serial, used := range read() {
		all = append(all, reading{serial, used})
	}
	slices.SortFunc(all, func(a, b reading) int { return cmp.Compare(a.serial, b.serial) })
	m.mu.Lock()
	defer m.mu.Unlock()
	then := m.last
	if now.Sub(then.at) > longest {
		then = readings{}
	}
	m.last = readings{now, all}
	m.pair, m.cost = compare(then, m.last), time.Since(began)
	if m.forget != nil {
		m.forget.Stop()
	}
	m.forget = time.AfterFunc(longest, m.clear)
	m.reading = nil
	close(done)
}

func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.pair = readings{}, pair{}
}

// compare walks through two readings side by side. Who was not there at the first does
// nothing yet.
func compare(then, now readings) pair {
	p := pair{all: make([]worker, len(now.all))}
	if then.all != nil {
		p.seconds = now.at.Sub(then.at).Seconds()
	}
	before := then.all
	for i, r := range now.all {
		w := &p.all[i]
		w.serial, w.Usage = r.serial, r.Usage
		for len(before) > 0 && before[0].serial < r.serial {
			before = before[1:]
		}
		if len(before) > 0 && before[0].serial == r.serial {
			w.since(&before[0].Usage, p.seconds)
		}
	}
	return p
}

// nobody has used anything.
var nobody busy

// of is what an assignment has used. hint is where it may be: those who ask for many
// in about their order say where the last was, and one.
func (p *pair) of(serial uint64, hint *int) *busy {
	if i := *hint; i >= len(p.all) || p.all[i].serial != serial {
		at, found := slices.BinarySearchFunc(p.all, serial, func(a worker, b uint64) int { return cmp.Compare(a.serial, b) })
		if !found {
			return &nobody
		}
		*hint = at
	}
	*hint++
	return &p.all[*hint-1].busy
}

// busy is what a workload has used, and does just now.
type busy struct {
	accounting.Usage
	SentRate, ReceivedRate       float64 // bits a second
	SentPackets, ReceivedPackets float64 // packets a second
	RefusedRate                  float64
}

// Active says that something goes on.
func (b *busy) Active() bool { return b.SentPackets+b.ReceivedPackets > 0 }

func (b *busy) rate() float64 { return b.SentRate + b.ReceivedRate }

func (b *busy) bytes() uint64 { return b.Sent.Bytes + b.Received.Bytes }

// add is for sums.
func (b *busy) add(o *busy) {
	b.Usage = b.Plus(o.Usage)
	b.SentRate += o.SentRate
	b.ReceivedRate += o.ReceivedRate
	b.SentPackets += o.SentPackets
	b.ReceivedPackets += o.ReceivedPackets
	b.RefusedRate += o.RefusedRate
}

// since compares with what was used before.
func (b *busy) since(then *accounting.Usage, seconds float64) {
	b.SentRate = 8 * perSecond(then.Sent.Bytes, b.Sent.Bytes, seconds)
	b.ReceivedRate = 8 * perSecond(then.Received.Bytes, b.Received.Bytes, seconds)
	b.SentPackets = perSecond(then.Sent.Packets, b.Sent.Packets, seconds)
	b.ReceivedPackets = perSecond(then.Received.Packets, b.Received.Packets, seconds)
	b.RefusedRate = perSecond(then.Violations, b.Violations, seconds)
}

// most gives those that come first in an order, of whom wanted wants.
func (p *pair) most(n int, wanted func(*busy) bool, before func(a, b *busy) int) (found []*worker) {
	order := func(a, b *worker) int { return cmp.Or(before(&a.busy, &b.busy), cmp.Compare(a.serial, b.serial)) }
	for i := range p.all {
		one := &p.all[i]
		if !wanted(&one.busy) || len(found) == n && order(one, found[n-1]) >= 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(found, one, order)
		if len(found) == n {
			found = found[:n-1]
		}
		found = slices.Insert(found, at, one)
	}
	return found
}
