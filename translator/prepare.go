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
	table := w.t.snapshot.Load().table
	if !table.Large() {
		return
	}
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
