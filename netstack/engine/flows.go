//go:build linux

package engine

import (
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/netstack/flows"
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
	return queues
}
