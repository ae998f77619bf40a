//go:build linux

package dataplane

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// start is the zero of the workers' clock.
var start = time.Now()

// loop moves the packets of one queue. It outlives the device.
type loop struct {
	index     int
	plane     *Dataplane
	worker    *translator.Worker
	queue     tun.Queue
	observer  Observer
	segmenter tun.Segmenter
	counters  *counters
	traffic   *traffic // nil: nothing is counted by mapping

	turns, awake atomic.Uint64 // see began
}

func newLoop(d *Dataplane, index int) *loop {
	l := &loop{index: index, plane: d, worker: d.config.Translator.NewWorker(), counters: new(counters)}
	if d.config.PerMapping {
		l.traffic = new(traffic)
	}
	return l
}

func (l *loop) run() error {
	for {
		p, fresh, err := l.queue.Next()
		if errors.Is(err, tun.ErrStopped) {
			return nil
		}
		if err != nil {
			return err
		}
		if fresh {
			l.begin()
		}
		if p.GSOType != translator.GSONone {
			l.counters.superpackets.Add(1)
		}
		l.counters.load.Add(uint64(p.End-p.Start) + packetCost)
		l.move(p)
		l.worker.Done()
	}
}

// begin starts a batch: what may change from batch to batch is looked at.
func (l *loop) begin() {
	l.began()
	now := time.Since(start)
	l.worker.SetTime(int64(now))
	if q, ok := l.queue.(tun.Batcher); ok {
		l.worker.Prepare(q.Ready())
	}
	l.plane.placed.look(now, l.plane.loops)
	l.observer = nil
	if o := l.plane.observer.Load(); o != nil {
		l.observer = *o
		l.observer.Begin(l.index, start.Add(now))
	}
}

// move translates a packet that was read and sends it on its way.
func (l *loop) move(p *translator.Packet) {
	if l.observer != nil {
		l.observer.Read(l.index, p)
	}
	direction, size := directionOf(p), p.End-p.Start
	v := l.worker.Translate(p)
	l.count(direction, v, size)
	l.send(p, v)
	if direction == To6 || v == translator.Hairpin {
		l.sendHeld(direction)
	}
}

// count counts what the worker has just translated.
func (l *loop) count(d Direction, v translator.Verdict, size int) {
	l.counters.add(d, v, size)
	if l.traffic != nil && v.IsForward() {
		l.traffic.add(l.worker, size)
	}
}

// send does what the verdict says. The packet is the queue's afterwards.
func (l *loop) send(p *translator.Packet, v translator.Verdict) {
	if l.observer != nil {
		l.observer.Translated(l.index, p, v)
	}
	switch {
	case v.IsForward() && l.worker.Fragments():
		l.sendFragments(p)
	case v.IsForward() || v.Replied():
		l.queue.Write(p)
	case v == translator.Local:
		l.sendLocal(p)
	case v == translator.Segment:
		l.sendSegments(p)
	default:
		l.queue.Release(p)
	}
}

func (l *loop) sendFragments(p *translator.Packet) {
	fragment := l.queue.Buffer()
	for l.worker.NextFragment(p, fragment) {
		l.counters.fragments.Add(1)
		l.queue.Write(fragment)
		fragment = l.queue.Buffer()
	}
	l.queue.Release(fragment)
	l.queue.Release(p)
}

// sendHeld sends the fragments that waited for the packet just sent, which came
// in that direction as they did.
func (l *loop) sendHeld(direction Direction) {
	for {
		held := l.queue.Buffer()
		v, ok := l.worker.NextHeld(held)
		if !ok {
			l.queue.Release(held)
			return
		}
		l.count(direction, v, held.End-held.Start)
		l.send(held, v)
	}
}

// sendSegments moves a superpacket that the translator wants in pieces.
func (l *loop) sendSegments(p *translator.Packet) {
	if l.segmenter.Reset(p) != nil {
		l.counters.unsegmentable.Add(1)
		l.queue.Release(p)
		return
	}
	for {
		segment := l.queue.Buffer()
		if !l.segmenter.Next(segment) {
			l.queue.Release(segment)
			break
		}
		l.move(segment)
	}
	l.queue.Release(p)
}

// sendLocal gives a packet to the local stack, which knows nothing of partial
// checksums, nor of several datagrams in one packet.
func (l *loop) sendLocal(p *translator.Packet) {
	if p.GSOType&^translator.GSOECN == translator.GSOUDPL4 && l.segmenter.Reset(p) == nil {
		segment := l.queue.Buffer()
		for l.segmenter.Next(segment) {
			l.deliver(segment)
		}
		l.queue.Release(segment)
	} else {
		l.deliver(p)
	}
	l.queue.Release(p)
}

func (l *loop) deliver(p *translator.Packet) {
	local := l.plane.config.Local
	if local == nil || !tun.CompleteChecksum(p) || !local.Deliver(p.Bytes()) {
		l.counters.localDropped.Add(1)
	}
}

func directionOf(p *translator.Packet) Direction {
	if p.End > p.Start && p.Buf[p.Start]>>4 == 4 {
		return To6
	}
	return To4
}
