//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/route"
)

// checks are what the status says of a daemon's parts.
func (d *Daemon) checks(c *config.Config) []api.Check {
	all := []api.Check{homeless(d.keeper.Registry), written(d.keeper.Registry), d.hostPorts(),
		d.othersNAT.look(d.host.State().Routes), d.spoofing(), d.held(c)}
	all = append(all, lentBlocks(d.reloader.blocks(c))...)
	all = append(all, d.relayCheck(c)...)
	all = append(all, d.inside(c)...)
	all = append(all, d.insisted(c)...)
	if s := d.shedding(); s != nil {
		all = append(all, overloaded(s))
	}
	if table := d.host.Policy(); table != nil {
		all = append(all, policed(table, d.keeper.Len() > 0))
	}
	if drains := d.keeper.Drains(); drains != nil {
		all = append(all, drained(drains, time.Now()))
	}
	if c.Uplink != "" {
		all = append(all, announcements(d.host.Routes))
	}
	if r := d.host.Local.DNS64(); r != nil {
		all = append(all, upstreams(r))
	}
	return all
}

// hostPorts says which of the ports that the host shares it uses itself.
func (d *Daemon) hostPorts() api.Check {
	if u := d.host.InUse(); u != nil && !u.Ports.IsZero() {
		return api.Check{Name: "host ports", State: "warn", Detail: u.String()}
	}
	return api.Check{Name: "host ports", State: "ok"}
}

// drained says what no new workload gets anything of, so that nobody forgets it.
func drained(drains []api.Drain, now time.Time) api.Check {
	var said []string
	for _, d := range drains {
		what, end := "this host", "natless undrain"
		if d.Pool != "" {
			what, end = "pool "+d.Pool, "natless undrain --pool "+d.Pool
			if d.Unknown {
				what += ", which is not configured any more,"
			}
		}
		said = append(said, fmt.Sprintf("%s takes no new workloads since %s (%v ago), %s left: %s ends it", what,
			d.Since.Local().Format("2006-01-02 15:04:05 MST"), now.Sub(d.Since).Truncate(time.Minute), words.Count(d.Left, "workload"), end))
	}
	return api.Check{Name: "drained", State: "warn", Detail: strings.Join(said, "; ")}
}

// othersNATLasts is how long what was found of others' rules is told again: where
// there are thousands of chains, reading them takes a moment.
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
