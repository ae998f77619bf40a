//go:build linux

package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/flowlog"
	"github.com/natless/natless/cmd/internal/ipfix"
	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	apiserver "github.com/natless/natless/config/api/server"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/engine"
	"github.com/natless/natless/netstack/flows"
)

// recorder is what collects flows and what their records go to.
type recorder struct {
	collector *flows.Collector // nil: flows are off
	recent    *flowlog.Recent
	receivers []receiver
	exporters []*ipfix.Exporter // of them
	sample    int               // of so many packets one is itemised
}

// receiver takes records and is a task.
type receiver interface {
	engine.Runner
	flows.Sink
	Status() api.FlowReceiver
}

func newRecorder(d *Daemon, c *config.Config) (*recorder, error) {
	r := &recorder{sample: int(c.Flows.Sample)}
	if err := r.export(d, c.Flows.IPFIX); err != nil {
		return nil, err
	}
	d.keeper.own = r.own
	if !c.Flows.Enabled {
		return r, nil
	}
	r.recent = flowlog.NewRecent()
	sinks := []flows.Sink{r.recent}
	if j := c.Flows.JSON; j.Path != "" {
		r.receivers = append(r.receivers, flowlog.NewFile(j.Path, int64(j.MaxSize)<<20, j.Keep, d.Log))
	}
	for _, to := range r.receivers {
		sinks = append(sinks, to)
	}
	o := &owners{keeper: d.keeper, accounts: d.accounts}
	r.collector = flows.NewCollector(flows.Config{
		Limits: flows.Limits{Idle: int64(c.Flows.Idle), Active: int64(c.Flows.Active), Most: c.Flows.MaxFlows}, Sample: int(c.Flows.Sample),
		Sources: d.host.FlowSources, Owner: o.of, Name: ownerName, Rule: d.rules.RuleName,
		Sinks: sinks, Log: d.Log,
	})
	return r, nil
}

// tasks are in the order in which they may end, the last first: what takes records
// is there until the last of them, and what collects until no packet comes any more.
func (r *recorder) tasks() (tasks []engine.Task) {
	for _, to := range r.receivers {
		tasks = append(tasks, engine.Task{Name: "flows to " + to.Status().Name, Runner: to})
	}
	if r.collector != nil {
		tasks = append(tasks, engine.Task{Name: "flows", Runner: r.collector})
	}
	return tasks
}

// owners tells whose flows are. The collector alone asks.
type owners struct {
	keeper   *keeper
	accounts *accounting.Accounting
	bySlot   map[uint32]*registry.Assignment // nil: no workload's
	nobodys  map[uint32]bool
	had      map[uint32]*registry.Assignment // the last that was known
	since    time.Time
}

// ownersFor is how long an owner is believed without asking again: a slot has no
// other one so soon (see mapping.Table).
const ownersFor = time.Second

// hadMost is of how many slots it is remembered who had them last.
const hadMost = 65_536

// of is whose an address and port was at a time: by arithmetic; or by the slot, where
// a packet has no port.
func (o *owners) of(slot uint32, local netip.AddrPort, at time.Time) any {
	if time.Since(o.since) > ownersFor {
		o.bySlot, o.nobodys, o.since = map[uint32]*registry.Assignment{}, map[uint32]bool{}, time.Now()
	}
	a, known := o.bySlot[slot]
	if !known {
		a, _ = o.keeper.BySerial(o.accounts.Serial(slot))
		if h := o.had[slot]; a != nil && h != nil && a.Serial == h.Serial && a.Request.Name == h.Request.Name {
			a = h // open flows hold it
		}
		o.note(slot, a)
	}
	if a != nil && owns(a, local) {
		return a
	}
	if a == nil && o.had[slot] != nil && owns(o.had[slot], local) && (!local.IsValid() || local.Port() == 0) {
		return o.had[slot] // who is gone, and no port tells
	}
	if o.nobodys[slot] || !local.IsValid() || local.Port() == 0 {
		return nil
	}
	had, err := o.keeper.Whois(local, time.Time{}) // who has it, as a rule, had it then
	if err != nil || at.Before(had.Since) {
		had, err = o.keeper.Whois(local, at)
	}
	if err != nil {
		o.nobodys[slot] = a == nil && slot != 0 // a mapping of the configuration's
		return nil
	}
	if a == nil && slot != 0 {
		o.note(slot, had)
	}
	return had
}

func (o *owners) note(slot uint32, a *registry.Assignment) {
	o.bySlot[slot] = a
	if len(o.had) > hadMost || o.had == nil {
		o.had = map[uint32]*registry.Assignment{}
	}
	if a != nil {
		o.had[slot] = a
	}
}

func owns(a *registry.Assignment, local netip.AddrPort) bool {
	return !local.IsValid() || a.Address == local.Addr() && (local.Port() == 0 || a.Ports.IsZero() || a.Ports.Contains(local.Port()))
}

// flows sends what a filter wants.
func (r *recorder) flows(ctx context.Context, f api.FlowFilter, send apiserver.Send) error {
	wanted := func(one *flows.Record) bool { return flowlog.Wants(&f, one) }
	since := time.Now()
	if f.Since > 0 {
		since = since.Add(-f.Since)
	}
	if f.Open {
		r.collector.Collect()
	}
	if f.Follow {
		r.followFlows(ctx, f, since, send, wanted)
		return nil
	}
	// The open ones come first: one that ends meanwhile is told twice, rather than not.
	if f.Open && r.sendOpen(send, wanted) != nil {
		return nil // he has gone
	}
	var ended []flows.Record
	if f.Since > 0 {
		ended, _ = r.recent.Since(since, false, wanted)
	}
	_ = sendFlows(send, ended, 0)
	return nil
}

// followFlows sends what is there, and what comes, until nobody reads it any more.
func (r *recorder) followFlows(ctx context.Context, f api.FlowFilter, since time.Time, send apiserver.Send,
	wanted func(*flows.Record) bool) {
	ended, next := r.recent.Since(since, true, wanted)
	defer r.recent.Leave(next)
	if f.Since == 0 {
		ended = nil
	}
	if sendFlows(send, ended, 0) != nil || f.Open && r.sendOpen(send, wanted) != nil {
		return
	}
	for told := uint64(0); ; {
		batch, ok := next.Next(ctx)
		if !ok {
			return
		}
		some := make([]flows.Record, 0, len(batch))
		for i := range batch {
			if wanted(&batch[i]) {
				some = append(some, batch[i])
			}
		}
		lost := next.Dropped() - told
		told += lost
		if sendFlows(send, some, lost) != nil {
			return
		}
	}
}

// sendOpen sends the flows that are open.
func (r *recorder) sendOpen(send apiserver.Send, wanted func(*flows.Record) bool) error {
	for some := range r.collector.Open(wanted) {
		if err := sendFlows(send, some, 0); err != nil {
			return err
		}
	}
	return nil
}

// flowsOf gives the flows of an assignment that are open, as far as they were
// collected, and those that ended so long ago at most.
func (r *recorder) flowsOf(serial uint64, since time.Duration) (all []api.Flow) {
	wanted := func(one *flows.Record) bool {
		a, ok := one.Owner.(*registry.Assignment)
		return ok && a != nil && a.Serial == serial
	}
	note := func(records []flows.Record) {
		for i := range records {
			all = append(all, flowlog.Of(&records[i]))
		}
	}
	began := time.Now()
	for some := range r.collector.Open(wanted) { // see flows
		note(some)
	}
	ended, _ := r.recent.Since(began.Add(-since), false, wanted)
	note(ended)
	return all
}

// sendAtOnce is how many records are sent in one piece.
const sendAtOnce = 256

func sendFlows(send apiserver.Send, all []flows.Record, lost uint64) error {
	var b []byte
	line := func(s api.SeenFlow) {
		j, err := json.Marshal(s)
		if err == nil {
			b = append(append(b, j...), '\n')
		}
	}
	if lost > 0 {
		line(api.SeenFlow{Lost: lost})
	}
	for i := range all {
		f := flowlog.Of(&all[i])
		line(api.SeenFlow{Flow: &f})
		if i%sendAtOnce == sendAtOnce-1 {
			if err := send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return send(b) // also of nothing: he is to know that he is heard
}

// status is what is recorded of flows.
func (r *recorder) status() (s api.FlowStatus) {
	for _, to := range r.receivers {
		s.Receivers = append(s.Receivers, to.Status())
	}
	if r.collector == nil {
		return s
	}
	n := r.collector.Stats()
	s.Enabled, s.Open, s.Denied, s.MaxFlows, s.Stuck, s.LostAt = true, n.Open, n.Denied, n.Most, n.Stuck, n.LastLost
	if r.sample > 1 {
		s.Sample = r.sample
	}
	s.Lost = api.FlowCount{Packets: n.Lost.Packets, Bytes: n.Lost.Bytes}
	s.Records, s.LostBy, s.RefusedBy = map[string]uint64{}, map[string]api.FlowCount{}, map[string]uint64{}
	s.Refused = n.Lost.Denied
	for why, count := range n.Records {
		s.Records[why.String()] = count
	}
	for name, lost := range n.By {
		if lost.Packets > 0 {
			s.LostBy[name] = api.FlowCount{Packets: lost.Packets, Bytes: lost.Bytes}
		}
		if lost.Denied > 0 {
			s.RefusedBy[name] = lost.Denied
		}
	}
	return s
}

// ownerName is what is told of whose flows found no room.
func ownerName(owner any) string {
	if a, ok := owner.(*registry.Assignment); ok && a != nil {
		return nameOf(a)
	}
	return "-"
}

func nameOf(a *registry.Assignment) string {
	if a.Request.Name != "" {
		return a.Request.Name
	}
	return a.Key.String()
}

// check is how records do, for status and doctor.
func (r *recorder) check() (all []api.Check) {
	s := r.status()
	if !s.Enabled && s.Receivers == nil {
		return nil
	}
	c := api.Check{Name: "flows", State: "ok", Detail: fmt.Sprintf("%d of %d open", s.Open, s.MaxFlows)}
	var wrong []string
	if time.Since(s.LostAt) < lostLately {
		wrong = append(wrong, fmt.Sprintf("%d packets found no room and are in no record: see flows.max_flows", s.Lost.Packets))
	}
	for _, to := range s.Receivers {
		if to.State != "ok" {
			wrong = append(wrong, to.Name+": "+to.State)
		}
	}
	if wrong != nil {
		c.State, c.Detail = "warn", strings.Join(wrong, "; ")
	}
	return []api.Check{c}
}

// lostLately is for how long a table that was full is told of as a problem.
const lostLately = 10 * time.Minute

// flowDirs are the directories that records are written to.
func flowDirs(c *config.Config) []string {
	if c.Flows.JSON.Path == "" {
		return nil
	}
	return []string{filepath.Dir(c.Flows.JSON.Path)}
}
