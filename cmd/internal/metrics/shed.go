//go:build linux

package metrics

import "github.com/natless/natless/netstack/dataplane"

var (
	overloaded  = desc("overloaded", "Whether the host is overloaded, and those give way who bring most.")
	shedPackets = desc("shed_packets_total",
		"Packets dropped because whoever sent them, or whom they were for, brings more than he may.", "direction")
)

// Shed is who gives way.
type Shed struct {
	Overloaded bool
	Packets    [dataplane.NumDirections]uint64
}

func (c *Collector) shed(s sink) {
	n := c.Shed()
	s.is(overloaded, n.Overloaded)
	for _, d := range []dataplane.Direction{dataplane.To4, dataplane.To6} {
		s.counter(shedPackets, n.Packets[d], d.String())
	}
}
