package config

import "net/netip"

// Metrics is the HTTP listener for Prometheus and people. Nobody is asked for a
// password there, and nothing can be changed.
type Metrics struct {
	Listen       netip.AddrPort `yaml:"listen"`        // the zero value: no listener
	PerWorkload  bool           `yaml:"per_workload"`  // count the packets of each workload
	MaxWorkloads int            `yaml:"max_workloads"` // how many have time series of their own
}

// CountsWorkloads says that packets are to be counted by workload: for Prometheus,
// and for natless workloads and top, which need no listener.
func (m Metrics) CountsWorkloads() bool { return m.PerWorkload }

func (v validator) metrics() {
	m := v.Metrics
	v.check(!m.Listen.IsValid() || m.Listen.Port() != 0, "metrics.listen", "%s has no port", m.Listen)
	v.between("metrics.max_workloads", m.MaxWorkloads, 0, 100_000)
}
