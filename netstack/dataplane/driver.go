package dataplane

import (
	"time"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Driver does what verdicts say, in the only place that knows it: a queue's loop,
// the stacks inside this process and `natless explain` differ in where packets come
// from and go to, which is their Port. A driver belongs to one goroutine at a time.
type Driver struct {
	worker    *translator.Worker
	port      Port
	observer  Observer // nil: nobody looks
	index     int      // of the queue, for the observer
	segmenter tun.Segmenter
	counters  *counters                     // nil: nothing is counted
	traffic   *traffic                      // nil: nothing is counted by mapping
	own       bool                          // the packet is the local stack's
	from      mapping.Tag                   // of who sent the packet, as IPv4; 0: it came as any packet does
	flows     flowTable                     // of the batch
	firstUse  func(*translator.Packet) bool // see Config; nil: what is FirstUse goes no further
}

// Port is where a driver's packets go. Each packet comes to it once, and is its own
// from then on: the one that Move was called with, and those that Buffer gave.
type Port interface {
	// Buffer gives an empty packet with room for the longest one, and with
	// translator.Headroom and translator.Tailroom around it.
	Buffer() *translator.Packet
	// Send takes a packet that leaves: v says how it came about, translated, or
	// Replied, as an ICMP error of ours that goes back to the sender.
	Send(p *translator.Packet, v translator.Verdict)
	// Deliver takes an IPv4 packet that leaves for one workload, which has its IPv4
	// address inside: that of the tag.
	Deliver(p *translator.Packet, to mapping.Tag, v translator.Verdict)
	// Local takes a packet for the translator's own addresses, as it came or, where
	// a workload wrote to our IPv4 address, translated. It may be a superpacket or
	// have a partial checksum.
	Local(p *translator.Packet)
	// Release takes back a packet that goes no further.
	Release(p *translator.Packet)
}

// Observer watches packets. It is called on the driver's goroutine, must be quick,
// and copies what it keeps.
type Observer interface {
	// Begin says that a batch begins and when: what follows came no earlier.
	Begin(queue int, now time.Time)
	// Read gets a packet as it came, or a segment of one.
	Read(queue int, p *translator.Packet)
	// Translated gets the same packet afterwards, or what is left of it when it
	// was dropped. A fragment that was held comes here twice, the second time
	// without a Read. The rule is the serial of that of a policy by which it was
	// denied, or would be if its policy were not only audited; 0: none.
	Translated(queue int, p *translator.Packet, v translator.Verdict, rule uint32)
}

// NewDriver makes a driver whose packets go to a port. The observer may be nil.
func NewDriver(w *translator.Worker, p Port, o Observer) *Driver {
	return &Driver{worker: w, port: p, observer: o}
}

// start is the zero of the workers' clock.
var start = time.Now()

// Now tells the worker the time. It belongs before each packet or batch.
func (d *Driver) Now() { d.worker.SetTime(int64(time.Since(start))) }

// Done lets go of the table, after a packet or a batch.
func (d *Driver) Done() { d.worker.Done() }

// Move translates a packet and does what its verdict says, which it returns for
// those who want to say it.
func (d *Driver) Move(p *translator.Packet) translator.Verdict {
	if d.worker.FromFabric(p) {
		if v := d.descend(p); v != translator.Forward4 {
			return v
		}
	}
	if d.observer != nil {
		d.observer.Read(d.index, p)
	}
	direction, size := directionOf(p), p.End-p.Start
	if d.flows.Table != nil {
		d.flows.before(p)
	}
	v := d.worker.Translate(p)
	d.settle(p, v, direction, size)
	return v
}

// Pass is Move for an IPv4 packet of a workload that has its address inside, which the
// tag names.
func (d *Driver) Pass(p *translator.Packet, from mapping.Tag) translator.Verdict {
	if d.observer != nil {
		d.observer.Read(d.index, p)
	}
	d.from = from
	size := p.End - p.Start
	v := d.worker.Pass4(p, from)
	d.settle(p, v, Across, size)
	d.from = 0
	return v
}

// MoveOwn is Move for what the stack behind the translator's own addresses sends.
func (d *Driver) MoveOwn(p *translator.Packet) translator.Verdict {
	direction, size := directionOf(p), p.End-p.Start
	v := d.worker.TranslateOwn(p)
	d.own = true // at an edge nobody else has its IPv4 address
	d.settle(p, v, direction, size)
	d.own = false
	return v
}

// settle finishes a packet that came in a direction with size bytes, and the
// fragments that waited for it, which came in the same direction.
func (d *Driver) settle(p *translator.Packet, v translator.Verdict, direction Direction, size int) {
	d.count(p, direction, v, size)
	d.do(p, v)
	for d.worker.Held() {
		held := d.port.Buffer()
		v, ok := d.worker.NextHeld(held)
		if !ok {
			d.port.Release(held)
			return
		}
		d.flows.held = true
		d.count(held, direction, v, held.End-held.Start)
		d.flows.held = false
		d.do(held, v)
	}
}

// count counts p, which the worker has just translated.
func (d *Driver) count(p *translator.Packet, direction Direction, v translator.Verdict, size int) {
	if v == translator.Deliver4 && direction == To6 {
		direction = Across
	}
	if d.counters != nil {
		d.counters.add(direction, v, size)
	}
	if d.traffic != nil && v.IsForward() {
		d.traffic.add(d.worker, size)
	}
	switch {
	case d.flows.Table == nil:
	case v.IsForward():
		d.flows.add(d.worker, p, direction, size)
	case v.IsDenied():
		d.flows.refuse(d.worker, v)
	}
}

// do is what a verdict says.
func (d *Driver) do(p *translator.Packet, v translator.Verdict) {
	if d.observer != nil {
		d.observer.Translated(d.index, p, v, ruleOf(d.worker))
	}
	switch {
	case v.IsForward() && d.worker.Fragments():
		d.sendFragments(p, v)
	case v.Leaves():
		d.leave(p, v)
	case v == translator.Local:
		d.port.Local(p)
	case v == translator.Segment:
		d.moveSegments(p)
	case v == translator.FirstUse && d.firstUse != nil && !d.firstUse(p):
		d.Refuse(p)
	default:
		d.port.Release(p)
	}
}

// Refuse answers a packet that was FirstUse and whose sender gets nothing.
func (d *Driver) Refuse(p *translator.Packet) {
	if v := d.worker.TranslateRefused(p); v.Leaves() {
		d.leave(p, v)
	} else {
		d.port.Release(p)
	}
}

func (d *Driver) leave(p *translator.Packet, v translator.Verdict) {
	switch to := d.worker.Inside(); {
	case to != 0:
		d.port.Deliver(p, to, v)
	case d.worker.Ascends() && !d.own && p.Bytes()[0]>>4 == 4:
		d.ascend(p, v)
	default:
		d.port.Send(p, v)
	}
}

func (d *Driver) sendFragments(p *translator.Packet, v translator.Verdict) {
	fragment := d.port.Buffer()
	for d.worker.NextFragment(p, fragment) {
		if d.counters != nil {
			d.counters.fragments.Add(1)
		}
		d.leave(fragment, v)
		fragment = d.port.Buffer()
	}
	d.port.Release(fragment)
	d.port.Release(p)
}

// moveSegments moves a superpacket that the translator wants in pieces.
func (d *Driver) moveSegments(p *translator.Packet) {
	if d.segmenter.Reset(p) != nil {
		if d.counters != nil {
			d.counters.unsegmentable.Add(1)
		}
		d.port.Release(p)
		return
	}
	from := d.from
	for {
		segment := d.port.Buffer()
		if !d.segmenter.Next(segment) {
			d.port.Release(segment)
			break
		}
		if from != 0 {
			d.Pass(segment, from)
		} else {
			d.Move(segment)
		}
	}
	d.port.Release(p)
}

// ruleOf is the serial of the rule of the last packet, or 0.
func ruleOf(w *translator.Worker) uint32 {
	if r := w.Rule(); r != nil {
		return r.Serial
	}
	return 0
}

func directionOf(p *translator.Packet) Direction {
	if p.End > p.Start && p.Buf[p.Start]>>4 == 4 {
		return To6
	}
	return To4
}
