//go:build linux

package metrics

import "runtime"

var (
	buildInfo  = desc("build_info", "The version of natlessd that runs, and of the Go that built it; always 1.", "version", "goversion")
	ready      = desc("ready", "Whether every part of the daemon is ready.")
	mappings   = desc("mappings", "Mappings in the table, those of workloads included.")
	workloads  = desc("workloads", "Workloads that have an assignment.")
	reloads    = desc("config_reloads_total", "Attempts to reload the configuration, by result.", "result")
	reloaded   = desc("config_last_reload_successful", "Whether the last attempt to reload the configuration succeeded.")
	reloadedAt = desc("config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded.")
	spoofed    = desc("spoofed_packets_total", "Packets dropped for a forged source or a forged claim about an address, by cause.", "cause")
	refusals   = desc("budget_refusals_total", "Packets, requests and connections refused or ended because their sender's "+
		"budget was used up.", "what", "budget")
	spoofingRules = desc("spoofing_rules_installed", "Whether the nftables rules against spoofed sources are there.")
)

func (c *Collector) process(s sink) {
	s.gauge(buildInfo, 1, c.Version, runtime.Version())
	s.is(ready, c.Ready())
	inTable, assigned := c.Table()
	s.gauge(mappings, float64(inTable))
	s.gauge(workloads, float64(assigned))
	r := c.Reloads()
	s.counter(reloads, r.Succeeded, "success")
	s.counter(reloads, r.Refused, "refused")
	s.is(reloaded, !r.LastRefused)
	s.gauge(reloadedAt, float64(r.LastSuccess.UnixNano())/1e9)
	causes, installed, err := c.Spoofing()
	if err != nil {
		return // nobody knows
	}
	s.is(spoofingRules, installed)
	if !installed {
		return
	}
	for cause, packets := range causes {
		s.counter(spoofed, packets, cause)
	}
}
