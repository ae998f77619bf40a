//go:build linux

package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/natless/natless/cmd/internal/metrics"
	"github.com/natless/natless/config/api"
)

// firstUseStatus is what people are told.
func (f *firstUse) status() (all []api.FirstUse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.running().Pools {
		if has := f.byPool[p.Name] - f.making[p.Name]; p.FirstUse.Enabled() || has > 0 {
			all = append(all, api.FirstUse{Pool: p.Name, Sources: append([]netip.Prefix{}, p.FirstUse.Sources...), Workloads: has})
		}
	}
	return all
}

// of is how many have something of a pool.
func (f *firstUse) of(pool string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byPool[pool] - f.making[pool]
}

// check says what people should do something about.
func (f *firstUse) check() []api.Check {
	all := f.status()
	if len(all) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	workloads := 0
	for _, p := range all {
		workloads += p.Workloads
	}
	c := api.Check{Name: "first use", State: "ok", Detail: fmt.Sprintf("%d assigned, %d given back since the start", workloads, f.counts.GivenBack)}
	var lately []string
	for _, reason := range firstUseReasons {
		if at, ever := f.said[reason]; ever && time.Since(at) < 5*time.Minute {
			lately = append(lately, fmt.Sprintf("%s %d", reason, f.counts.Refused[reason]))
		}
	}
	if lately != nil {
		c.State, c.Detail = "warn", c.Detail+"; sources get nothing: "+strings.Join(lately, ", ")+" (since the start): see the log"
	}
	return []api.Check{c}
}

// figures are the counts.
func (f *firstUse) figures() firstUseCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.counts
	c.Refused = map[string]uint64{}
	for _, reason := range firstUseReasons {
		c.Refused[reason] = f.counts.Refused[reason]
	}
	return c
}

// firstUseFigures are the counts as metrics have them.
func (d *Daemon) firstUseFigures() metrics.FirstUse {
	c := d.firstUse.figures()
	return metrics.FirstUse{Pools: d.firstUse.status(), Given: c.Given, GivenBack: c.GivenBack, Dropped: c.Dropped, Refused: c.Refused}
}
