//go:build linux

package main

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/guard"
	"github.com/natless/natless/netstack/route"
	"github.com/natless/natless/translator/mapping"
)

// openGuard makes the task that polices workloads where they are attached.
func (s *server) openGuard(c *config.Config, handover bool) (err error) {
	all := s.workloads.All()
	named := make([]guard.Workload, len(all))
	for i, a := range all {
		named[i] = policed(a)
	}
	s.guard, err = guard.New(guard.Config{Device: c.Device.Name, Uplink: s.uplink, Leave: handover, Log: s.log}, s.translator.Table(),
		named)
	s.workloads.guard = s.guard
	return err
}

func policed(a *registry.Assignment) guard.Workload {
	return guard.Workload{Mapping: a.Mapping(), Addrs: a.Request.IPv6, Interface: a.Request.HostInterface}
}

// police puts a workload that comes under guard before its packets are translated.
func (w *workloads) police(table *mapping.Table, c registry.Change) error {
	if c.New == nil {
		return nil
	}
	next, err := edited(table, c)
	if err != nil {
		return err
	}
	return w.guard.Put(next, policed(c.New))
}

// release has the guard forget a workload that has gone.
func (w *workloads) release(table *mapping.Table, c registry.Change) {
	if c.Old != nil && (c.New == nil || c.New.Request.IPv6[0] != c.Old.Request.IPv6[0]) {
		w.guard.Delete(table, policed(c.Old))
	}
}

// unpolice has the guard forget one that came under it and is not translated.
func (w *workloads) unpolice(table *mapping.Table, c registry.Change) {
	if c.New != nil {
		w.guard.Delete(table, policed(c.New))
	}
}

// uplinkOf is the interface toward IPv4. At a port of a bridge nothing arrives
// that is for this host: the bridge itself has the addresses and answers.
func uplinkOf(c *config.Config, log *slog.Logger) string {
	bridge, err := route.BridgeOf(c.Uplink)
	if err != nil || bridge == "" {
		return c.Uplink
	}
	log.Warn("the uplink is a port of a bridge, which is used in its stead", "uplink", c.Uplink, "bridge", bridge)
	return bridge
}

// spoofed is what was dropped since it had a source that it cannot have, by
// cause, and whether the rules are there that do.
func spoofed() (causes map[string]uint64, installed bool, err error) {
	a, err := route.ReadAntiSpoofing()
	if err != nil {
		return nil, false, err
	}
	more, err := guard.Read()
	maps.Copy(a.Causes, more)
	return a.Causes, a.Installed, err
}

// spoofing says whether such packets are dropped, and where they are not.
func (s *server) spoofing() api.Check {
	const name = "anti-spoofing"
	causes, installed, err := spoofed()
	switch {
	case err != nil:
		return api.Check{Name: name, State: "warn", Detail: err.Error()}
	case !installed:
		return api.Check{Name: name, State: "fail", Detail: "its nftables rules are gone: a workload can send with another's source"}
	}
	check := api.Check{Name: name, State: "ok", Detail: dropped(causes)}
	if lacking := s.guard.Lacking(); len(lacking) > 0 {
		check.State, check.Detail = "warn", strings.Join(append(lacking, check.Detail), "; ")
	}
	return check
}

func dropped(causes map[string]uint64) string {
	var all uint64
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		if n := causes[cause]; n > 0 {
			all += n
			parts = append(parts, fmt.Sprintf("%s %d", cause, n))
		}
	}
	if all == 0 {
		return "0 packets dropped"
	}
	return fmt.Sprintf("%d packets dropped: %s", all, strings.Join(parts, ", "))
}

// moved follows a workload that keeps its assignment and is at another interface,
// of which the registry tells nobody.
func (w *workloads) moved(before, now *registry.Assignment) error {
	if before == nil || before.Request.HostInterface == now.Request.HostInterface {
		return nil
	}
	w.order.Lock()
	defer w.order.Unlock()
	table := w.translator.Table()
	if table.Get(now.Mapping().IPv6) == nil {
		return nil // it has gone again
	}
	if err := w.guard.Put(table, policed(now)); err != nil {
		return err
	}
	w.fastPath.follow(table, registry.Change{Old: before, New: now})
	return nil
}
