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
// looks any more.
type meter struct {
	mu     sync.Mutex
	last   readings
	pair   pair
	forget *time.Timer
}

// readings are what all had used at a time, by serial.
type readings struct {
	at  time.Time
	all []reading
}

type reading struct {
	serial uint64
	accounting.Usage
}

// pair is two readings. Nobody changes it.
type pair struct {
	then, now readings
}

// meterSpan is how old a reading is at least before there is another: of many
// workloads one takes a while.
const meterSpan = time.Second

// look reads anew unless the last reading is too young.
func (m *meter) look(now time.Time, read func() iter.Seq2[uint64, accounting.Usage]) pair {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.all != nil && now.Sub(m.last.at) < meterSpan {
		return m.pair
	}
	then := m.last
	if now.Sub(then.at) > longest {
		then = readings{at: now}
	}
	m.last = readings{now, make([]reading, 0, len(then.all)+len(then.all)/8+16)}
	for serial, used := range read() {
		m.last.all = append(m.last.all, reading{serial, used})
	}
	slices.SortFunc(m.last.all, func(a, b reading) int { return cmp.Compare(a.serial, b.serial) })
	m.pair = pair{then, m.last}
	if m.forget != nil {
		m.forget.Stop()
	}
	m.forget = time.AfterFunc(longest, m.clear)
	return m.pair
}

func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.pair = readings{}, pair{}
}

func (r *readings) of(serial uint64) (accounting.Usage, bool) {
	i, found := slices.BinarySearchFunc(r.all, serial, func(a reading, b uint64) int { return cmp.Compare(a.serial, b) })
	if !found {
		return accounting.Usage{}, false
	}
	return r.all[i].Usage, true
}

// seconds is the time between the readings; 0: there is one only.
func (p *pair) seconds() float64 {
	if p.then.all == nil {
		return 0
	}
	return p.now.at.Sub(p.then.at).Seconds()
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

// of compares a workload's two readings. One that was not there at the first does
// nothing yet.
func (p *pair) of(serial uint64) (b busy) {
	now, _ := p.now.of(serial)
	then, known := p.then.of(serial)
	return p.compare(then, now, known)
}

func (p *pair) compare(then, now accounting.Usage, known bool) (b busy) {
	b.Usage = now
	seconds := p.seconds()
	if !known || seconds <= 0 {
		return b
	}
	b.SentRate, b.ReceivedRate = 8*perSecond(then.Sent.Bytes, now.Sent.Bytes, seconds), 8*perSecond(then.Received.Bytes, now.Received.Bytes, seconds)
	b.SentPackets = perSecond(then.Sent.Packets, now.Sent.Packets, seconds)
	b.ReceivedPackets = perSecond(then.Received.Packets, now.Received.Packets, seconds)
	b.RefusedRate = perSecond(then.Violations, now.Violations, seconds)
	return b
}

// most gives the serials of those that come first, as less says, of whom wanted wants.
func (p *pair) most(n int, wanted func(*busy) bool, before func(a, b *busy) int) (found []leader) {
	i := 0
	for _, now := range p.now.all {
		for i < len(p.then.all) && p.then.all[i].serial < now.serial {
			i++
		}
		known := i < len(p.then.all) && p.then.all[i].serial == now.serial
		var then accounting.Usage
		if known {
			then = p.then.all[i].Usage
		}
		one := leader{now.serial, p.compare(then, now.Usage, known)}
		if !wanted(&one.busy) {
			continue
		}
		at, _ := slices.BinarySearchFunc(found, one, func(a, b leader) int {
			return cmp.Or(before(&a.busy, &b.busy), cmp.Compare(a.serial, b.serial))
		})
		if at == n {
			continue
		}
		if len(found) == n {
			found = found[:n-1]
		}
		found = slices.Insert(found, at, one)
	}
	return found
}

// leader is a workload that comes first in something.
type leader struct {
	serial uint64
	busy
}
