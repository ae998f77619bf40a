//go:build linux

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/netstack/fastpath"
	"github.com/natless/natless/translator"
)

// wayKernel is the kernel's fast path. What it passes on to the daemon is
// counted there, and is not a second packet.
const wayKernel = "kernel"

// lost is the reason of packets that the kernel refused in the middle.
const lost = "lost"

// fastPathSeries are the series of the fast path under its name and under the one
// that it had, which goes in the release after next.
var fastPathSeries = [...]fastPathDescs{newFastPathDescs("fast_path", ""),
	newFastPathDescs("offload", "Deprecated, see natless_fast_path_…: ")}

type fastPathDescs struct{ wanted, active, interfaces, failed, passed *prometheus.Desc }

func newFastPathDescs(name, note string) fastPathDescs {
	return fastPathDescs{
		wanted:     desc(name+"_wanted", note+"Whether the configuration wants the kernel's fast path."),
		active:     desc(name+"_active", note+"Whether the kernel translates plain packets by itself."),
		interfaces: desc(name+"_interfaces", note+"Interfaces where it does."),
		failed:     desc(name+"_failed_interfaces", note+"Interfaces where it should and cannot."),
		passed: desc(name+"_passed_packets_total",
			note+"Packets that the kernel's fast path left to the daemon, by why. The daemon counts them by verdict.",
			"direction", "reason"),
	}
}

// FastPath is the kernel's fast path as it is now.
type FastPath struct {
	Wanted, Active     bool
	Interfaces, Failed int
	Counts             [dataplane.NumDirections][fastpath.NumReasons]fastpath.Count
	Delivered          fastpath.Count  // IPv4 to workloads that have it inside
	XDP                *fastpath.Taken // nil: it is not asked for, or cannot be read
}

// xdpPackets are what XDP saw, which is not among what the fast path passed on unless it
// passed it on, too.
var xdpPackets = desc("fast_path_xdp_packets_total",
	"Packets that XDP saw in front of the kernel's fast path, by what became of them: translated, lost (dropped), or why it passed them on.",
	"direction", "reason")

// xdp tells of it by reason. None of its packets is spoofed: it passes on what it does not know.
func (f *FastPath) xdp(s sink) {
	if f.XDP == nil {
		return
	}
	for family, d := range [...]dataplane.Direction{dataplane.To6, dataplane.To4} {
		for r, n := range f.XDP[family] {
			if r := fastpath.XDPReason(r); r != fastpath.XDPReason(fastpath.Spoofed) {
				s.counter(xdpPackets, n.Packets, d.String(), r.String())
			}
		}
	}
}

var forward = [dataplane.NumDirections]translator.Verdict{
	dataplane.To4: translator.Forward4, dataplane.To6: translator.Forward6, dataplane.Across: translator.Pass4}

func (c *Collector) fastPath(s sink) {
	f := c.FastPath()
	for _, d := range fastPathSeries {
		s.is(d.wanted, f.Wanted)
		s.is(d.active, f.Active)
		s.gauge(d.interfaces, float64(f.Interfaces))
		s.gauge(d.failed, float64(f.Failed))
	}
	s.counter(translatedPackets, f.Delivered.Packets, dataplane.Across.String(), wayKernel, translator.Deliver4.String())
	s.counter(translatedBytes, f.Delivered.Bytes, dataplane.Across.String(), wayKernel, translator.Deliver4.String())
	f.xdp(s)
	for _, d := range directions {
		for r, n := range f.Counts[d] {
			switch r := fastpath.Reason(r); r {
			case fastpath.Translated:
				s.counter(translatedPackets, n.Packets, d.String(), wayKernel, forward[d].String())
				s.counter(translatedBytes, n.Bytes, d.String(), wayKernel, forward[d].String())
			case fastpath.Spoofed:
				if d == dataplane.Across {
					s.counter(droppedPackets, n.Packets, d.String(), wayKernel, translator.SpoofedSource.String())
					s.counter(droppedBytes, n.Bytes, d.String(), wayKernel, translator.SpoofedSource.String())
				}
			case fastpath.Lost:
				s.counter(droppedPackets, n.Packets, d.String(), wayKernel, lost)
				s.counter(droppedBytes, n.Bytes, d.String(), wayKernel, lost)
			default:
				for _, series := range fastPathSeries {
					s.counter(series.passed, n.Packets, d.String(), r.String())
				}
			}
		}
	}
}
