//go:build linux

package daemon

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// takeBack gives back what has been idle.
func (f *firstUse) takeBack(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(f.every()):
		}
		for _, k := range f.idle(time.Now()) {
			err := f.keeper.Delete(ctx, k)
			if err != nil && !errors.Is(err, registry.ErrNotFound) && ctx.Err() == nil {
				f.log.Warn("give back what is idle", "workload", k, "error", err)
			} else if err == nil {
				f.log.Info("an assignment by first use was idle, and is free", "workload", k)
				f.mu.Lock()
				f.counts.GivenBack++
				f.mu.Unlock()
			}
		}
	}
}

// every is how often it is looked who is idle: an eighth of the time that it takes.
func (f *firstUse) every() time.Duration {
	least := 8 * time.Minute
	for _, p := range f.running().Pools {
		if p.FirstUse.Enabled() {
			least = min(least, p.FirstUse.Idle)
		}
	}
	return max(least/8, time.Second/8)
}

// defaultIdle holds for those whose pool gives nothing by first use any more.
const defaultIdle = 24 * time.Hour

// idle looks at what everybody has done since the last time, and gives those who did
// nothing for long enough. Where that cannot be known, somebody has done something.
func (f *firstUse) idle(now time.Time) (idle []api.Key) {
	longest := map[string]time.Duration{}
	for _, p := range f.running().Pools {
		if p.FirstUse.Enabled() {
			longest[p.Name] = p.FirstUse.Idle
		}
	}
	for k, u := range f.users() {
		packets, known := f.activity(netip.PrefixFrom(u.addr, 128))
		f.mu.Lock()
		if f.mine[k] == u { // it is still there
			if !known || !u.known || packets != u.packets {
				u.packets, u.known, u.active = packets, known, now
			}
			most, set := longest[u.pool]
			if !set {
				most = defaultIdle
			}
			if now.Sub(u.active) >= most {
				idle = append(idle, k)
			}
		}
		f.mu.Unlock()
	}
	return idle
}

// users are all who have something by first use.
func (f *firstUse) users() map[api.Key]*user {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[api.Key]*user, len(f.mine))
	for k, u := range f.mine {
		all[k] = u
	}
	return all
}
