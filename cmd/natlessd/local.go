//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/local"
	"github.com/natless/natless/netstack/local/dns64"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator"
)

// localConfig is what the stack behind the translator's own addresses runs.
func (s *server) localConfig(c *config.Config) local.Config {
	l := local.Config{
		IPv4: c.Addresses.IPv4, IPv6: c.Addresses.IPv6, MTU: c.Device.MTU,
		Translator: s.translator, HealthPort: c.Health.Port, Ready: s.healthy, Log: s.log,
		Host:  new(route.Addresses).Has,
		Write: func(p *translator.Packet) error { return s.dataplane.Inject(p) },
	}
	if c.DNS64.Enabled {
		l.DNS64 = &dns64.Config{Upstreams: c.DNS64.Upstreams, Exclude: c.DNS64.Exclude, Cache: c.DNS64.Cache, Clients: c.DNS64.Clients}
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
	return s.fastPath.insufficient()
}

// allReady names a task that is not.
func allReady(tasks []task) error {
	for _, t := range tasks {
		select {
		case <-t.Ready():
		default:
			if i, ok := t.(*insisting); ok && i.insufficient() != nil {
				return i.insufficient()
			}
			return fmt.Errorf("not ready: %T", t)
		}
	}
	return nil
}

// upstreams says what the servers that DNS64 asks do wrong. All of them do not
// answer: it is broken. Some do not: it is slower.
func upstreams(d *dns64.Server) api.Check {
	check := api.Check{Name: "dns64", State: "ok"}
	var troubles []string
	list, silent := d.Upstreams(), 0
	for _, u := range list {
		if u.Trouble != "" {
			troubles = append(troubles, fmt.Sprintf("%v %s", u.Address, u.Trouble))
		}
		if u.Silent {
			silent++
		}
	}
	switch {
	case len(list) == 0:
		check.State, check.Detail = "fail", "no server to ask: name one in dns64.upstreams or in /etc/resolv.conf"
		return check
	case silent == len(list):
		check.State = "fail"
	case len(troubles) > 0:
		check.State = "warn"
	}
	if n := d.Stats.Results[dns64.Limited].Load(); n > 0 {
		troubles = append(troubles, fmt.Sprintf("%d queries beyond their client's share failed", n))
	}
	if from, any := d.Stranger(); any {
		n := d.Stats.Results[dns64.Prohibited].Load()
		troubles = append(troubles, fmt.Sprintf("%d queries refused, the last from %v (see dns64.clients)", n, from))
	}
	check.Detail = strings.Join(troubles, "; ")
	return check
}
