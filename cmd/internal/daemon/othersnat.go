//go:build linux

package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/route"
)

// othersNATLasts is how long what was found of others' rules is told again: where
// there are thousands of chains, reading them takes a moment (10,000 of them a second).
const othersNATLasts = 2 * time.Second

// othersNAT looks for rules that take ports which workloads own.
type othersNAT struct {
	mu    sync.Mutex // guards what follows
	at    time.Time
	of    route.Desired
	check api.Check
}

func (o *othersNAT) look(d route.Desired) api.Check {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.at) > othersNATLasts || !reflect.DeepEqual(o.of, d) {
		o.check, o.at, o.of = sourceNAT(d), time.Now(), d
	}
	return o.check
}

// mostNamed is how many rules of others are named.
const mostNamed = 6

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
	rules = slices.DeleteFunc(rules, func(n route.SourceNAT) bool { return !n.Could(d.HostPool, d.Uplink, d.Mapped4) })
	idle := slices.DeleteFunc(slices.Clone(rules), func(n route.SourceNAT) bool { return !n.Idle })
	rules = slices.DeleteFunc(rules, func(n route.SourceNAT) bool { return n.Idle })
	switch {
	case len(rules)+len(published) > 0:
		return api.Check{Name: name, State: "warn", Detail: fmt.Sprintf(
			"somebody else's rules may take ports that workloads own, whose answers then go to the wrong one: %s; %s",
			named(rules, published), natRemedy(d, rules))}
	case legacy && d.HostPool.Addr.IsValid():
		return api.Check{Name: name, State: "warn", Detail: "the older iptables has rules in its table nat, which cannot be read " +
			"here (iptables-legacy -t nat -S): what masquerades to an address of a pool must be given ports outside of it (--to-ports)"}
	}
	return api.Check{Name: name, State: "ok", Detail: harmless(idle)}
}

// named names some of the rules.
func named(rules []route.SourceNAT, published []route.DestinationNAT) string {
	var words []string
	for _, n := range rules {
		words = append(words, n.String())
	}
	for _, n := range published {
		words = append(words, n.String())
	}
	if more := len(words) - mostNamed; more > 0 {
		words = append(words[:mostNamed], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "; ")
}

func natRemedy(d route.Desired, rules []route.SourceNAT) string {
	switch {
	case len(rules) == 0:
		return "publish ports outside of the pool, or take these out of the pool"
	case d.HostPool.Addr.IsValid():
		return rules[0].Remedy(d.HostPool)
	}
	return "let it use no address of a pool"
}

// harmless says of rules that are always there why nobody need mind them.
func harmless(idle []route.SourceNAT) string {
	var words []string
	for _, n := range idle {
		why := "which go to containers of this host"
		if n.Engine == "kube-proxy" {
			why = "and it marks none (there is no service of IPv4)"
		}
		words = append(words, fmt.Sprintf("%s's usual rule (%s) is for packets that it has marked, %s: no packet of a workload meets it", n.Engine, n, why))
	}
	return strings.Join(words, "; ")
}

// published is what others publish of ports of the host, as it was when a workload last
// asked for single ports.
type published struct {
	mu    sync.Mutex // held while it is read, and guards at
	at    time.Time
	rules atomic.Pointer[[]route.DestinationNAT]
}

// look reads it anew; for many that ask at the same time, once.
func (p *published) look(log *slog.Logger) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < othersNATLasts {
		return
	}
	rules, err := route.ReadDestinationNAT()
	if err != nil {
		log.Warn("cannot see which ports others publish", "error", err)
	}
	p.rules.Store(&rules)
	p.at = time.Now()
}

// refuses says that a workload asks for a port that somebody else publishes: packets to it
// would come to either, as their way goes. uplink is the address that the host shares.
func (p *published) refuses(c registry.Change, uplink netip.Addr) error {
	rules := p.rules.Load()
	if rules == nil || c.New == nil || c.Old != nil && c.Old.Address == c.New.Address && c.Old.Ports.Equal(c.New.Ports) {
		return nil
	}
	for _, n := range *rules {
		if at := n.At(c.New.Address, c.New.Request.ExtraPorts); at && cmp.Or(n.To, uplink) == c.New.Address {
			return &api.Problem{Code: api.CodeConflict, Field: "extra_ports", Detail: fmt.Sprintf(
				"somebody else publishes one of them on %s (%s; natless status, \"others' nat\"): ask for another port, or have that one take another", c.New.Address, n)}
		}
	}
	return nil
}
