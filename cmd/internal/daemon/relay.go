//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/cmd/internal/words"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/lease"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
)

// relay is how a relay stands with its fleet. A nil one has no rules.
type relay struct {
	rules func() lease.Relay
	boot  string // which boot of the host this is
	path  string // a file with the boot and when the rules were last told, for the next process
	// last is when they were, by the clock that goes on while the host sleeps; 0: never.
	last atomic.Int64
}

func newRelay(c *config.Config, rules func() lease.Relay, boot string) *relay {
	r := &relay{rules: rules, boot: boot, path: c.Registry.Path + ".relay.told"}
	b, err := os.ReadFile(r.path)
	if said, at, ok := strings.Cut(strings.TrimSpace(string(b)), " "); err == nil && ok && said == boot {
		if n, err := strconv.ParseInt(at, 10, 64); err == nil && n <= sinceBoot() {
			r.last.Store(n)
		}
	}
	return r
}

// sinceBoot is the time since the host was booted, sleep included.
func sinceBoot() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return t.Nano()
}

// told notes that somebody has just said that the rules hold. What the next process does not
// know of it only makes it more careful.
func (r *relay) told() error {
	now := sinceBoot()
	r.last.Store(now)
	return os.WriteFile(r.path, fmt.Appendf(nil, "%s %d\n", r.boot, now), 0o600)
}

// ago is how long ago that was.
func (r *relay) ago() (d time.Duration, ever bool) {
	last := r.last.Load()
	return time.Duration(sinceBoot() - last), last != 0
}

// with is a table with the rules besides. It refuses a configuration that has no place for
// one of them.
func (r *relay) with(c *config.Config, table *mapping.Table) (*mapping.Table, error) {
	if r == nil || !c.Relay.Enabled() {
		return table, nil
	}
	edit := table.Edit()
	for _, one := range r.rules().InForce(r.boot) {
		_, err := c.CheckRule(one)
		if err == nil {
			err = edit.Insert(mappingOf(one))
		}
		if err != nil {
			return nil, fmt.Errorf("a rule of the fleet, %s → %s: %w", one.IPv4, one.IPv6, err)
		}
	}
	return edit.Table(), nil
}

// rule is the rule that a mapping is of.
func (r *relay) rule(m mapping.Mapping) (rule api.Rule, ok bool) {
	if r == nil {
		return rule, false
	}
	rule, ok = r.rules().Rule(m.IPv4, m.Ports)
	return rule, ok && rule.IPv6 == m.IPv6
}

// standing is why a relay that translates is not one to be sent packets; "": it is.
func (r *relay) standing(c *config.Config) (state, why string) {
	known := r.rules()
	ago, ever := r.ago()
	switch {
	case !known.Confirmed(r.boot):
		return api.RelayUnconfirmed, "nobody has told its rules since the host was booted: does whoever tells them (PUT /v1/relay) run?"
	case !ever || ago > c.Relay.StaleAfter:
		why = fmt.Sprintf("its view of the fleet is stale: nobody has said for %s that its rules hold", ago.Round(time.Second))
		if !ever {
			why = "its view of the fleet is stale: nobody has said for long that its rules hold"
		}
		return api.RelayDrains, why
	case c.Relay.Drain:
		return api.RelayDrains, "relay.drain is set"
	}
	return api.RelayServes, ""
}

// relay is how it stands; rules says that they are wanted, too.
func (d *Daemon) relay(c *config.Config, rules bool) (api.Relay, error) {
	if !c.Relay.Enabled() {
		return api.Relay{}, &api.Problem{Code: api.CodeNotFound, Detail: "this host is no relay (relay.ipv4)"}
	}
	r := d.reloader.host.relay
	known := r.rules()
	is := api.Relay{Epoch: known.Epoch, Count: known.Count(), IPv4: c.Relay.IPv4, StaleAfter: c.Relay.StaleAfter.Seconds(),
		LastLease: known.LastLease(), Digest: known.Digest()}
	if is.State, is.Why = r.standing(c); is.State != api.RelayUnconfirmed {
		if err := d.translates(); err != nil {
			is.State, is.Why = api.RelayNotReady, err.Error()
		}
	}
	if ago, ever := r.ago(); ever {
		seconds := ago.Seconds()
		is.Confirmed = &seconds
	}
	if rules {
		is.Rules = known.Rules()
	}
	return is, nil
}

// relayUnready says why a relay should not be sent packets, or nil. One that drains since an
// operator wants it is as it should be.
func (d *Daemon) relayUnready() error {
	c := d.reloader.running()
	if !c.Relay.Enabled() {
		return nil
	}
	if state, why := d.reloader.host.relay.standing(c); state != api.RelayServes && !(state == api.RelayDrains && c.Relay.Drain) {
		return errors.New("relay: " + why)
	}
	return nil
}

// metric is that of what is served now.
func (d *Daemon) metric() int {
	if d.translates() != nil {
		return 0
	}
	return d.reloader.host.relay.metric(d.reloader.running())
}

// served is what a relay serves, with a metric.
func served(c *config.Config, metric int) (s route.Served) {
	if c.Relay.Enabled() && metric != 0 {
		s.Table, s.Metric = c.Relay.Table, metric
		s.Prefixes = append(slices.Clone(c.Relay.IPv4), c.Prefix)
	}
	return s
}

// metric is that of the routes of a relay which translates; 0: it serves nothing.
func (r *relay) metric(c *config.Config) int {
	if !c.Relay.Enabled() {
		return 0
	}
	switch state, _ := r.standing(c); state {
	case api.RelayServes:
		return c.Relay.Metric
	case api.RelayDrains:
		return c.Relay.DrainMetric
	}
	return 0
}

// serve has what is served have a metric from now on. It is asked for here, where nobody else
// changes it: one of before the rules were told would withdraw what has just been announced.
func (r *reloader) serve(asked func() int) error {
	r.one.Lock()
	defer r.one.Unlock()
	metric, before := asked(), r.host.metric
	if metric == before {
		return nil
	}
	r.host.metric = metric
	if err := r.replace(r.running()); err != nil {
		r.host.metric = before
		return err
	}
	r.log.Info("what this relay serves", "metric", metric, "before", before)
	return nil
}

// serving is the metric of what is served; 0: nothing is.
func (r *reloader) serving() int {
	r.one.Lock()
	defer r.one.Unlock()
	return r.host.metric
}

// lookEvery is how often a relay looks how it stands.
const lookEvery = time.Second

// announcer has the routes of a relay be as it stands. It ends before all else: what is on
// its way still is translated.
type announcer struct {
	*Daemon
	once bool // it has been ready; Run's own
}

// Ready is always.
func (a *announcer) Ready() <-chan struct{} { return always() }

// Run looks until ctx is done, and withdraws the routes then, unless somebody takes over.
func (a *announcer) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return a.withdraw()
		case <-tick.C:
		}
		if a.translates() != nil && !a.started() {
			continue // it has not begun yet: a predecessor's routes stay
		}
		if err := a.reloader.serve(a.metric); err != nil {
			a.Log.Error("routes of what this relay serves", "error", err)
		}
	}
}

// started says that it has been ready once.
func (a *announcer) started() bool {
	a.once = a.once || a.ready()
	return a.once
}

func (a *announcer) withdraw() error {
	c := a.reloader.running()
	if a.Handover || a.reloader.serving() == 0 {
		return nil
	}
	if err := a.reloader.serve(func() int { return 0 }); err != nil {
		a.Log.Error("withdraw what this relay serves", "error", err)
	}
	time.Sleep(c.Relay.Linger)
	return nil
}

// relayCheck is what the status says of a relay.
func (d *Daemon) relayCheck(c *config.Config) []api.Check {
	is, err := d.relay(c, false)
	if err != nil {
		return nil
	}
	check := api.Check{Name: "relay", State: "ok", Detail: fmt.Sprintf("%s, epoch %d", words.Count(is.Count, "rule"), is.Epoch)}
	if is.State != api.RelayServes {
		check.State, check.Detail = "warn", fmt.Sprintf("%s: %s; %s", is.State, is.Why, check.Detail)
	}
	return []api.Check{check}
}

// relayFigures are for metrics; nil: this host is no relay.
func (d *Daemon) relayFigures() *metrics.Relay {
	is, err := d.relay(d.reloader.running(), false)
	if err != nil {
		return nil
	}
	m := &metrics.Relay{Epoch: is.Epoch, Rules: is.Count, State: is.State, Told: -1}
	if ago, ever := is.ConfirmedAgo(); ever {
		m.Told = ago.Seconds()
	}
	return m
}
