//go:build linux

package metrics

import "github.com/natless/natless/config/api"

// Relay is how a relay stands with its fleet.
type Relay struct {
	Epoch uint64
	Rules int
	State string  // one of api.RelayXxx
	Told  float64 // seconds since its rules were last told; -1: never
}

var (
	relayEpoch = desc("relay_epoch", "The epoch of the fleet that this relay goes by.")
	relayRules = desc("relay_rules", "Rules of this relay, of which each leads a block to its host.")
	relayTold  = desc("relay_told_seconds", "Since when the fleet has not said that the rules of this relay hold. Absent: since before the host was booted.")
	relayState = desc("relay_state", "1 for what this relay does: serves, drains, unconfirmed or not-ready.", "state")
)

func (c *Collector) relay(s sink) {
	if c.Relay == nil {
		return
	}
	r := c.Relay()
	if r == nil {
		return
	}
	s.gauge(relayEpoch, float64(r.Epoch))
	s.gauge(relayRules, float64(r.Rules))
	if r.Told >= 0 {
		s.gauge(relayTold, r.Told)
	}
	for _, state := range []string{api.RelayServes, api.RelayDrains, api.RelayUnconfirmed, api.RelayNotReady} {
		s.is(relayState, r.State == state, state)
	}
}
