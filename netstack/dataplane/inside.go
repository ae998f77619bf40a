//go:build linux

package dataplane

import (
	"context"
	"encoding/binary"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// Workloads that have their IPv4 address inside send and get IPv4 frames by a TAP of
// their own, whose Ethernet addresses name them: the source of what comes from one,
// the destination of what goes to one. It has a dataplane of its own. What leaves it
// for anybody else is written to the other's device, where the host finds its way, and
// what comes to that one for a workload with IPv4 inside is written to the TAP.

const etherIPv4 = 0x0800

// Pair has two dataplanes give each other what is theirs, before either runs: d has
// the translator's device, inside the one of workloads with IPv4 inside.
func (d *Dataplane) Pair(inside *Dataplane) { d.other, inside.other = inside, d }

// awaitOther waits until the other's device is there, too. What waits in the queues of this
// one, maybe since a daemon before was killed, could not be given to that one before.
func (d *Dataplane) awaitOther(ctx context.Context) {
	if d.other == nil {
		return
	}
	select {
	case <-d.other.opened:
	case <-ctx.Done():
	}
}

// pass moves a frame of a workload.
func (l *loop) pass(p *translator.Packet) {
	link := p.Buf[p.Start-tun.LinkLen : p.Start]
	if binary.BigEndian.Uint16(link[2*mapping.TagLen:]) != etherIPv4 {
		l.Release(p)
		return
	}
	l.Pass(p, l.tagOf(p))
}

// tagOf is the tag of the workload that a frame came from.
func (l *loop) tagOf(p *translator.Packet) mapping.Tag {
	return mapping.TagOf(p.Buf[p.Start-tun.LinkLen+mapping.TagLen : p.Start])
}

// Deliver is the port's.
func (l *loop) Deliver(p *translator.Packet, to mapping.Tag, _ translator.Verdict) {
	frame(p, to)
	if l.inside {
		l.put(p)
	} else {
		l.cross(p)
	}
}

// cross writes a packet to the other device.
func (l *loop) cross(p *translator.Packet) {
	if !l.plane.crosses(l.index, p) {
		l.counters.crossDropped.Add(1)
	}
	l.Release(p)
}

func (d *Dataplane) crosses(queue int, p *translator.Packet) bool {
	if d.other == nil {
		return false
	}
	device := d.other.current.Load()
	return device != nil && device.InjectAt(queue, p) == nil
}

// frame puts the Ethernet header in front of a packet for a workload.
func frame(p *translator.Packet, to mapping.Tag) {
	link := p.Buf[p.Start-tun.LinkLen : p.Start]
	to.Put(link)
	copy(link[mapping.TagLen:], link[:mapping.TagLen])
	binary.BigEndian.PutUint16(link[2*mapping.TagLen:], etherIPv4)
}

// InjectInside is Inject for an IPv4 packet that is for a workload with IPv4 inside. Its
// buffer needs 24 bytes before Start.
func (d *Dataplane) InjectInside(p *translator.Packet, to mapping.Tag) error {
	frame(p, to)
	if !d.crosses(0, p) {
		return errNoDevice
	}
	return nil
}

// Add adds what another dataplane of the same translator counted.
func (s *Snapshot) Add(o Snapshot) {
	for d := range o.Verdicts {
		for v := range o.Verdicts[d] {
			s.Verdicts[d][v].Packets += o.Verdicts[d][v].Packets
			s.Verdicts[d][v].Bytes += o.Verdicts[d][v].Bytes
			s.Replied[d][v] += o.Replied[d][v]
		}
		s.ErrorsLimited[d].Add(o.ErrorsLimited[d])
	}
	s.Superpackets += o.Superpackets
	s.Fragments += o.Fragments
	s.LocalDropped += o.LocalDropped
	s.CrossDropped += o.CrossDropped
	s.Unsegmentable += o.Unsegmentable
	s.Reopened += o.Reopened
	s.Device.Add(o.Device)
}

// Add adds what another dataplane of the same translator counted.
func (t *Traffic) Add(o Traffic) {
	for _, n := range []struct {
		to   *Count
		from Count
	}{{&t.Sent, o.Sent}, {&t.Received, o.Received}} {
		n.to.Packets += n.from.Packets
		n.to.Bytes += n.from.Bytes
	}
}
