//go:build linux

package engine

import (
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/flows"
	"github.com/natless/natless/netstack/shed"
	"github.com/natless/natless/translator/mapping"
)

// queueRoom is how many flows the table of a queue has room for: what comes in two
// seconds at 30,000 new ones a second, and it is drained sooner where it fills fast.
const queueRoom = 65_536

// kernelRoom is how many flows the kernel has room for in the same time, twice: some
// 40 MB.
const kernelRoom = 131_072

// flowSources makes what itemises flows, where they are wanted.
func (h *Host) flowSources(o Options) (queues []*flows.Queue) {
	if !o.Flows {
		return nil
	}
	n := o.Queues
	if o.OpenInside != nil {
		n *= 2 // those of workloads with IPv4 inside come last
	}
	for range n {
		q := flows.NewQueueSource(queueRoom, o.FlowSample)
		queues = append(queues, q.Queue)
		h.FlowSources = append(h.FlowSources, q)
	}
	if h.FastPath.Manager != nil {
		h.FlowSources = append(h.FlowSources, &fastpath.FlowSource{Drainer: h.FastPath.Manager, Room: kernelRoom})
	}
	h.FlowSources = append(h.FlowSources, newShedSource(h.Shed, h.Table))
	return queues
}

// shedSource tells what each way of each workload gave way with: as one flow, whose far
// end is not told. Where packets are dropped so that others can be translated, in the
// kernel for the most part, none is looked at for longer than it must.
type shedSource struct {
	shed interface {
		Each(func(slot uint32, packets, bytes [shed.NumWays]uint64))
	}
	table func() *mapping.Table
	since int64
	told  map[uint32][2][shed.NumWays]uint64 // packets and bytes, by slot
}

func newShedSource(s *shed.Shed, table func() *mapping.Table) *shedSource {
	return &shedSource{shed: s, table: table, since: flows.Now(), told: map[uint32][2][shed.NumWays]uint64{}}
}

// Presses see flows.Source.
func (s *shedSource) Presses() bool { return false }

// Drain see flows.Source.
func (s *shedSource) Drain(flow func(*flows.Key, *flows.Sum), _ func(uint32, flows.Lost)) error {
	table, now := s.table(), flows.Now()
	s.shed.Each(func(slot uint32, packets, bytes [shed.NumWays]uint64) {
		told := s.told[slot]
		if packets == told[0] {
			return
		}
		s.told[slot] = [2][shed.NumWays]uint64{packets, bytes}
		k, header := flows.Key{Slot: slot, Verdict: flows.Shed}, uint64(0)
		if e := table.At(slot); e != nil && slot != 0 {
			k.Local = e.Addr4()
			if !e.Inside() { // what it sends came as IPv6, whose header has more
				header = headerMore
			}
		}
		for w := range packets {
			n := packets[w] - told[0][w]
			if n == 0 {
				continue
			}
			sum := flows.Sum{First: s.since, Last: now, Began: flows.Direction(w)}
			sum.Packets[w], sum.Bytes[w] = n, bytes[w]-told[1][w]
			if shed.Way(w) == shed.Sent {
				sum.Bytes[w] -= min(sum.Bytes[w], n*header)
			}
			flow(&k, &sum)
		}
	})
	s.since = now
	return nil
}

// headerMore is how many bytes an IPv6 header has more than one of IPv4.
const headerMore = 20
