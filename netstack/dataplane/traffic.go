package dataplane

import (
	"sync/atomic"

	"github.com/natless/natless/translator"
)

// Traffic is what the workload of one mapping sent and got, translated packets
// only. A hairpinned packet counts with both of its workloads.
type Traffic struct{ Sent, Received Count }

const (
	maxSlots   = 1 << 24 // of a mapping.Table
	chunkSlots = 1024
)

// traffic is the counters of one loop, by slot. A chunk is made when the first
// packet of one of its slots comes, so that mappings without traffic cost
// nothing, however many there are. Only the loop writes.
type traffic struct {
	chunks [maxSlots / chunkSlots]atomic.Pointer[trafficChunk]
}

type trafficChunk [chunkSlots]struct{ sent, received count }

// add counts the packet that w has just translated.
func (t *traffic) add(w *translator.Worker, size int) {
	source, destination := w.Slots()
	if source != 0 {
		t.chunk(source)[source%chunkSlots].sent.add(size)
	}
	if destination != 0 {
		t.chunk(destination)[destination%chunkSlots].received.add(size)
	}
}

func (t *traffic) chunk(slot uint32) *trafficChunk {
	at := &t.chunks[slot/chunkSlots]
	c := at.Load()
	if c == nil {
		c = new(trafficChunk)
		at.Store(c)
	}
	return c
}

func (c *count) add(size int) {
	c.packets.Add(1)
	c.bytes.Add(uint64(size))
}

func (c *count) addTo(n *Count) {
	n.Packets += c.packets.Load()
	n.Bytes += c.bytes.Load()
}
