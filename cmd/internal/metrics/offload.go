//go:build linux

package metrics

import (
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/offload"
	"github.com/natless/natless/translator"
)

// wayKernel is the kernel's fast path. What it passes on to the daemon is
// counted there, and is no second packet.
const wayKernel = "kernel"

// lost is the reason of packets that the kernel refused in the middle.
const lost = "lost"

var (
	offloadWanted     = desc("offload_wanted", "Whether the configuration wants the kernel's fast path.")
	offloadActive     = desc("offload_active", "Whether the kernel translates plain packets by itself.")
	offloadInterfaces = desc("offload_interfaces", "Interfaces where it does.")
	offloadFailed     = desc("offload_failed_interfaces", "Interfaces where it should and cannot.")
	offloadPassed     = desc("offload_passed_packets_total", "Packets that the kernel's fast path left to the daemon, by why. The daemon counts them by verdict.", "direction", "reason")
)

// FastPath is the kernel's fast path as it is now.
type FastPath struct {
	Wanted, Active     bool
	Interfaces, Failed int
	Counts             [dataplane.NumDirections][offload.NumReasons]offload.Count
}

var forward = [dataplane.NumDirections]translator.Verdict{dataplane.SixToFour: translator.Forward4, dataplane.FourToSix: translator.Forward6}

func (c *Collector) fastPath(s sink) {
	f := c.FastPath()
	s.is(offloadWanted, f.Wanted)
	s.is(offloadActive, f.Active)
	s.gauge(offloadInterfaces, float64(f.Interfaces))
	s.gauge(offloadFailed, float64(f.Failed))
	for _, d := range directions {
		for r, n := range f.Counts[d] {
			switch r := offload.Reason(r); r {
			case offload.Translated:
				s.counter(translatedPackets, n.Packets, d.String(), wayKernel, forward[d].String())
				s.counter(translatedBytes, n.Bytes, d.String(), wayKernel, forward[d].String())
			case offload.Lost:
				s.counter(droppedPackets, n.Packets, d.String(), wayKernel, lost)
				s.counter(droppedBytes, n.Bytes, d.String(), wayKernel, lost)
			default:
				s.counter(offloadPassed, n.Packets, d.String(), r.String())
			}
		}
	}
}
