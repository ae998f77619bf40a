//go:build linux

package dataplane

import (
	"time"

	"github.com/natless/natless/translator"
)

// Snapshot sums up the counters.
func (d *Dataplane) Snapshot() Snapshot {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := Snapshot{Reopened: d.reopened, Device: d.before.Clone()}
	if d.device != nil {
		d.device.AddTo(&s.Device)
	}
	for _, l := range d.loops {
		l.counters.addTo(&s)
		v4, v6 := l.worker.ErrorsLimited()
		if d.config.Inside {
			s.ErrorsLimited[Across].Add(v4)
		} else {
			s.ErrorsLimited[To6].Add(v4)
		}
		s.ErrorsLimited[To4].Add(v6)
	}
	s.Tracker = d.config.Translator.Tracker(int64(time.Since(start)))
	return s
}

// Translated is how many packets were translated, both ways, or were IPv4 of workloads
// that have it inside: those that the fast path could have taken.
func (d *Dataplane) Translated() (n uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, l := range d.loops {
		v := &l.counters.verdicts
		n += v[To4][translator.Forward4].packets.Load() + v[To6][translator.Forward6].packets.Load() +
			v[Across][translator.Pass4].packets.Load() + v[Across][translator.Deliver4].packets.Load()
	}
	return n
}

// Traffic sums up what all queues counted for the slot of a mapping
// (mapping.Entry.Slot) since the start, whoever had the slot; zero unless
// Config.PerMapping is set.
func (d *Dataplane) Traffic(slot uint32) (t Traffic) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, l := range d.loops {
		if l.traffic == nil {
			return t
		}
		if c := l.traffic.chunks[slot/chunkSlots].Load(); c != nil {
			n := &c[slot%chunkSlots]
			n.sent.addTo(&t.Sent)
			n.received.addTo(&t.Received)
		}
	}
	return t
}
