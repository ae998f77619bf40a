//go:build linux

package dataplane

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// maxOut is how many packets are written at once.
const maxOut = 64

// loop moves the packets of one queue. It outlives the device, and is its own
// driver's port.
type loop struct {
	Driver
	plane *Dataplane
	queue tun.Queue
	out   []*translator.Packet // to be written, or to be given back
	seen  *flows.Queue         // nil: flows are not itemised
	judge *shed.Queue          // nil: nobody gives way

	thread atomic.Int32 // its number

	inside bool // the device is the one of workloads with IPv4 inside

	turns, awake atomic.Uint64 // see began
}

func newLoop(d *Dataplane, index int) *loop {
	l := &loop{plane: d, out: make([]*translator.Packet, 0, maxOut)}
	l.Driver = Driver{worker: d.config.Translator.NewWorker(), port: l, index: d.config.FirstQueue + index, counters: new(counters)}
	l.inside, l.firstUse = d.config.Inside, d.config.FirstUse
	if d.config.PerMapping {
		l.traffic = new(traffic)
	}
	if index < len(d.config.Flows) {
		l.seen = d.config.Flows[index]
	}
	if index < len(d.config.Shed) {
		l.judge = d.config.Shed[index]
	}
	return l
}

func (l *loop) run() error {
	l.begins()
	for {
		packets, fresh, err := l.queue.Read()
		if errors.Is(err, tun.ErrStopped) {
			return nil
		}
		if err != nil {
			return err
		}
		if fresh {
			l.begin()
		}
		l.batch(packets)
	}
}

// batch moves packets that were read together.
func (l *loop) batch(packets []*translator.Packet) {
	if packets = l.shed(packets); len(packets) == 0 {
		l.flush()
		return
	}
	l.worker.Prepare(packets)
	if l.seen != nil {
		l.flows.Table = l.seen.Begin()
	}
	for _, p := range packets {
		if p.GSOType != translator.GSONone {
			l.counters.superpackets.Add(1)
		}
		l.counters.load.Add(uint64(p.End-p.Start) + packetCost)
		if l.inside {
			l.pass(p)
		} else {
			l.Move(p)
		}
	}
	l.worker.Done()
	if l.seen != nil {
		l.seen.End(l.flows.Table)
	}
	l.flush()
}

// begin looks at what may change from one time to another.
func (l *loop) begin() {
	l.began()
	now := time.Since(start)
	l.worker.SetTime(int64(now))
	l.flows.now = flowStart + int64(now)
	l.plane.placed.look(now, l.plane.loops)
	l.observer = nil
	if o := l.plane.observer.Load(); o != nil {
		l.observer = *o
		l.observer.Begin(l.index, start.Add(now))
	}
}

// flush writes what is to be written.
func (l *loop) flush() {
	l.queue.Write(l.out)
	l.out = l.out[:0]
}

// Buffer is the port's.
func (l *loop) Buffer() *translator.Packet { return l.queue.Buffer() }

// Send is the port's.
func (l *loop) Send(p *translator.Packet, _ translator.Verdict) {
	if l.inside {
		l.cross(p) // no packet leaves here but to a workload
		return
	}
	l.put(p)
}

// put has a packet written, or given back.
func (l *loop) put(p *translator.Packet) {
	l.out = append(l.out, p)
	if len(l.out) == maxOut {
		l.flush()
	}
}

// Release is the port's.
func (l *loop) Release(p *translator.Packet) {
	p.End = p.Start
	l.put(p)
}

// Local gives a packet to the local stack, which knows nothing of partial
// checksums, nor of several datagrams in one packet.
func (l *loop) Local(p *translator.Packet) {
	if p.GSOType&^translator.GSOECN == translator.GSOUDPL4 && l.segmenter.Reset(p) == nil {
		segment := l.queue.Buffer()
		for l.segmenter.Next(segment) {
			l.deliver(segment)
		}
		l.Release(segment)
	} else {
		l.deliver(p)
	}
	l.Release(p)
}

func (l *loop) deliver(p *translator.Packet) {
	local := l.plane.config.Local
	if local == nil || !tun.CompleteChecksum(p) || !local.Deliver(p.Bytes()) {
		l.counters.localDropped.Add(1)
	}
}
