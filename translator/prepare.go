package translator

import (
	"encoding/binary"

	"github.com/natless/natless/translator/mapping"
)

// Prepare looks at the headers of packets that Translate will be called with and
// brings what it will look up into the cache. It changes no packet and no
// verdict; where the table is small, or packets come one at a time, it does
// nothing.
func (w *Worker) Prepare(packets []*Packet) {
	if len(packets) < 2 {
		return
	}
	s := w.t.snapshot.Load()
	if table := s.table; table.Large() {
		w.prepareMappings(table, packets)
	}
	if s.policy.Large() {
		w.preparePolicy(s, packets)
	}
}

func (w *Worker) prepareMappings(table *mapping.Table, packets []*Packet) {
	w.batch.Reset()
	for _, p := range packets[:min(len(packets), mapping.BatchLen)] {
		if p.Start < 0 || p.End > len(p.Buf) || p.End-p.Start < size4+4 {
			continue
		}
		b := p.Buf[p.Start:p.End]
		switch b[0] >> 4 {
		case 4:
			w.batch.Add4(header4(b).dst(), binary.BigEndian.Uint16(b[size4+2:]))
		case 6:
			if len(b) >= size6 {
				w.batch.Add6(header6(b).src())
			}
		}
	}
	table.Warm(&w.batch)
}

// preparePolicy does so for the other ends, by which packets are judged.
func (w *Worker) preparePolicy(s *snapshot, packets []*Packet) {
	var remotes [mapping.BatchLen]uint32
	n := 0
	for _, p := range packets[:min(len(packets), mapping.BatchLen)] {
		if p.Start < 0 || p.End > len(p.Buf) || p.End-p.Start < size4 {
			continue
		}
		b := p.Buf[p.Start:p.End]
		switch b[0] >> 4 {
		case 4:
			remotes[n] = header4(b).src()
			n++
		case 6:
			if len(b) >= size6 {
				remotes[n], _ = s.table.Extract(header6(b).dst())
				n++
			}
		}
	}
	w.warmed += s.policy.Warm(remotes[:n])
}
