//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
)

// Who else has ports of addresses that workloads share: programs of the host
// itself, and those behind somebody else's NAT.

// assigned says whether a workload has a port of an address.
func (s *server) assigned(a netip.Addr, port uint16) bool {
	table, addr := s.translator.Table(), mapping.Addr4From(a)
	e := table.Lookup4(addr)
	return e != nil && (!e.Shared() || table.Port(e, addr, port) != nil)
}

// noteInUse keeps what the host uses of its own address from workloads.
func (s *server) noteInUse(u route.InUse) {
	s.workloads.SetInUse(registry.Share{Address: u.Addr, Ports: u.Ports})
	s.inUse.Store(&u)
}

// hostPorts says which of the ports that the host shares it uses itself.
func (s *server) hostPorts() api.Check {
	if u := s.inUse.Load(); u != nil && !u.Ports.IsZero() {
		return api.Check{Name: "host ports", State: "warn", Detail: u.String()}
	}
	return api.Check{Name: "host ports", State: "ok"}
}

// othersNATLasts is how long what was found of others' rules is told again: where
// there are thousands of chains, reading them takes a moment.
const othersNATLasts = 2 * time.Second

// othersNAT looks for rules that take ports which workloads own.
type othersNAT struct {
	mu    sync.Mutex // guards what follows
	at    time.Time
	check api.Check
}

func (o *othersNAT) look(d route.Desired) api.Check {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) > othersNATLasts {
		o.check, o.at = sourceNAT(d), time.Now()
	}
	return o.check
}

func (o *othersNAT) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.at = time.Time{}
}

func sourceNAT(d route.Desired) api.Check {
	const name = "others' nat"
	if !d.HostPool.Addr.IsValid() && len(d.Mapped4) == 0 {
		return api.Check{Name: name, State: "ok"}
	}
	rules, legacy, err := route.ReadSourceNAT()
	published, publishedErr := route.ReadDestinationNAT()
	if err := errors.Join(err, publishedErr); err != nil {
		return api.Check{Name: name, State: "warn", Detail: err.Error()}
	}
	published = slices.DeleteFunc(published, func(n route.DestinationNAT) bool { return !n.Takes(d.HostPool, d.Mapped4) })
	rules = slices.DeleteFunc(rules, func(n route.SourceNAT) bool { return !n.Takes(d.HostPool, d.Uplink, d.Mapped4) })
	var words []string
	for _, n := range rules {
		words = append(words, n.String())
	}
	for _, n := range published {
		words = append(words, n.String())
	}
	const most = 4
	if more := len(words) - most; more > 0 {
		words = append(words[:most], fmt.Sprintf("and %d more", more))
	}
	switch {
	case len(words) > 0:
		remedy := "let it use no address of a pool"
		switch {
		case len(rules) > 0 && d.HostPool.Addr.IsValid():
			remedy = rules[0].Remedy(d.HostPool)
		case len(rules) == 0:
			remedy = "publish ports outside of the pool, or take these out of the pool"
		}
		return api.Check{Name: name, State: "warn", Detail: fmt.Sprintf(
			"somebody else's rules may take ports that workloads own, whose answers then go to the wrong one: %s; %s",
			strings.Join(words, "; "), remedy)}
	case legacy && d.HostPool.Addr.IsValid():
		return api.Check{Name: name, State: "warn", Detail: "the older iptables has rules in its table nat, which cannot be read " +
			"here (iptables-legacy -t nat -S): what masquerades to an address of a pool must be given ports outside of it (--to-ports)"}
	}
	return api.Check{Name: name, State: "ok"}
}
