//go:build linux

package dataplane

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/translator"
)

// Worked is how much of processors' time the loops have used, and how many small packets
// that stands for: a byte costs as much of one everywhere.
func (d *Dataplane) Worked() (spent time.Duration, packets float64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, l := range d.loops {
		if tid := l.thread.Load(); tid != 0 {
			spent += shed.ThreadTime(int(tid))
		}
		packets += float64(l.counters.load.Load()) / packetCost
	}
	return spent, packets
}

// Lost is how many packets found the queues full, or were dropped in front of them.
func (d *Dataplane) Lost() uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.device == nil {
		return 0
	}
	stats, err := d.device.LinkStats()
	if err != nil {
		return 0
	}
	return stats.TxDropped
}

// Police puts a program in front of the queues, also of devices to come; -1: none.
func (d *Dataplane) Police(program int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.police = program
	if d.device == nil {
		return nil
	}
	return d.device.Police(program)
}

// begins notes which thread a loop has.
func (l *loop) begins() { l.thread.Store(int32(unix.Gettid())) }

// shed drops what its sender, or who it is for, is to give way with. It gives the rest.
func (l *loop) shed(packets []*translator.Packet) []*translator.Packet {
	q := l.judge
	if q == nil || !q.Begin(l.worker.Time(), l.plane.config.Translator.Table) {
		return packets
	}
	kept := packets[:0]
	for _, p := range packets {
		if l.inside && q.OverInside(p.Bytes(), l.tagOf(p)) || !l.inside && q.Over(p.Bytes()) {
			if l.observer != nil {
				l.observer.Read(l.index, p)
				l.observer.Translated(l.index, p, translator.Shed, 0)
			}
			l.Release(p)
		} else {
			kept = append(kept, p)
		}
	}
	q.End()
	return kept
}
