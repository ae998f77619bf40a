//go:build linux

package metrics

var (
	mapPackets = desc("map_packets_total", "Packets translated by a rule of MAP-T: to4 from its CEs, to6 to them.", "rule", "direction")
	mapDropped = desc("map_dropped_packets_total",
		"Packets of CEs that were dropped: spoofed, whose source the rule gives no CE, or from a port outside of the CE's set.", "rule", "reason")
)

// mapRules names a rule by its IPv6 prefix, which no other has.
func (c *Collector) mapRules(s sink) {
	if c.MAP == nil {
		return
	}
	for _, r := range c.MAP() {
		name := r.IPv6.String()
		s.counter(mapPackets, r.To4, name, "to4")
		s.counter(mapPackets, r.To6, name, "to6")
		s.counter(mapDropped, r.Spoofed, name, "spoofed")
		s.counter(mapDropped, r.Outside, name, "port-outside-set")
	}
}
