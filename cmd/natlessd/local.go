//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/natless/natless/config"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/translator"
)

// localConfig is what the stack behind the translator's own addresses runs.
func (s *server) localConfig(c *config.Config) local.Config {
	l := local.Config{
		IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6, MTU: c.Device.MTU,
		Translator: s.translator, HealthPort: c.Health.Port, Ready: s.healthy, Log: s.log,
		Write: func(p *translator.Packet) error { return s.dataplane.Inject(p) },
	}
	if c.DNS64.Enabled {
		l.DNS64 = &dns64.Config{Upstreams: c.DNS64.Upstreams, Exclude: c.DNS64.Exclude, Cache: c.DNS64.Cache}
		if c.DNS64.Cache == 0 {
			l.DNS64.Cache = -1 // none, where dns64 takes 0 for its default
		}
	}
	return l
}

// healthy is what /readyz says: nil when packets are translated.
func (s *server) healthy() error {
	if err := allReady(s.tasks()); err != nil {
		return err
	}
	if s.dataplane.Device() == nil {
		return errors.New("the device is gone and is being made anew")
	}
	return nil
}

// allReady names a task that is not.
func allReady(tasks []task) error {
	for _, t := range tasks {
		select {
		case <-t.Ready():
		default:
			return fmt.Errorf("not ready: %T", t)
		}
	}
	return nil
}
