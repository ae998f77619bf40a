//go:build linux

package metrics

import (
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator"
)

// wayKernel is the kernel's fast path. What it passes on to the daemon is
// counted there, and is no second packet.
const wayKernel = "kernel"

// lost is the reason of packets that the kernel refused in the middle.
const lost = "lost"

var (
	fastPathWanted     = desc("offload_wanted", "Whether the configuration wants the kernel's fast path.")
	fastPathActive     = desc("offload_active", "Whether the kernel translates plain packets by itself.")
	fastPathInterfaces = desc("offload_interfaces", "Interfaces where it does.")
	fastPathFailed     = desc("offload_failed_interfaces", "Interfaces where it should and cannot.")
	fastPathPassed     = desc("offload_passed_packets_total", "Packets that the kernel's fast path left to the daemon, by why. The daemon counts them by verdict.", "direction", "reason")
)

// FastPath is the kernel's fast path as it is now.
type FastPath struct {
	Wanted, Active     bool
	Interfaces, Failed int
	Counts             [dataplane.NumDirections][fastpath.NumReasons]fastpath.Count
}

var forward = [dataplane.NumDirections]translator.Verdict{dataplane.SixToFour: translator.Forward4, dataplane.FourToSix: translator.Forward6}

func (c *Collector) fastPath(s sink) {
	f := c.FastPath()
	s.is(fastPathWanted, f.Wanted)
	s.is(fastPathActive, f.Active)
	s.gauge(fastPathInterfaces, float64(f.Interfaces))
	s.gauge(fastPathFailed, float64(f.Failed))
	for _, d := range directions {
		for r, n := range f.Counts[d] {
			switch r := fastpath.Reason(r); r {
			case fastpath.Translated:
				s.counter(translatedPackets, n.Packets, d.String(), wayKernel, forward[d].String())
				s.counter(translatedBytes, n.Bytes, d.String(), wayKernel, forward[d].String())
			case fastpath.Lost:
				s.counter(droppedPackets, n.Packets, d.String(), wayKernel, lost)
				s.counter(droppedBytes, n.Bytes, d.String(), wayKernel, lost)
			default:
				s.counter(fastPathPassed, n.Packets, d.String(), r.String())
			}
		}
	}
}
