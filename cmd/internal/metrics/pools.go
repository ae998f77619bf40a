//go:build linux

package metrics

var (
	poolAddresses = desc("pool_addresses", "IPv4 addresses of the pool.", "pool")
	poolWorkloads = desc("pool_workloads", "Workloads that have an address, or a share of one, from the pool.", "pool")
	poolPorts     = desc("pool_ports", "Ports of the pool that can be assigned, over all its addresses.", "pool")
	poolUsed      = desc("pool_ports_used", "Ports of the pool that workloads have.", "pool")
	poolCooling   = desc("pool_ports_cooling", "Ports of the pool that were given back and are not yet to be had.", "pool")
	poolHost      = desc("pool_ports_of_host", "Ports of the pool that the host itself uses: not assigned until it stops.",
		"pool")
	hostDrained = desc("host_drained", "Whether the whole host takes no new workloads (natless drain).")
	poolDrained = desc("pool_drained", "Whether no new workload gets anything of the pool, because it or the whole host is drained.", "pool")

	poolHeadroom = desc("pool_headroom_workloads", "Workloads that would still find ports_per_workload free, or an address.", "pool")
)

func (c *Collector) pools(s sink) {
	s.is(hostDrained, c.Drained())
	for _, p := range c.Pools() {
		s.gauge(poolAddresses, float64(len(p.Addresses)), p.Name)
		s.gauge(poolWorkloads, float64(p.Workloads), p.Name)
		s.gauge(poolPorts, float64(p.Ports), p.Name)
		s.gauge(poolUsed, float64(p.PortsUsed), p.Name)
		s.gauge(poolCooling, float64(p.PortsCooling), p.Name)
		s.gauge(poolHost, float64(p.PortsOfHost), p.Name)
		s.gauge(poolHeadroom, float64(p.Headroom), p.Name)
		s.is(poolDrained, !p.Drained.IsZero(), p.Name)
	}
}
