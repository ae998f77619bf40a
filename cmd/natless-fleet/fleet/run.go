package fleet

import (
	"context"
	"math/rand/v2"
	"time"
)

// ControllerTask is a controller that runs, where it leads.
type ControllerTask struct {
	Controller
	Elector Elector
	Resync  time.Duration // how long it goes by watches alone
}

// AgentTask is an agent that runs.
type AgentTask struct {
	Agent
	Resync time.Duration // how long it goes without a look at natlessd, which tells of nothing by itself
}

const (
	// gather is how long a change waits for more, so that a pass does them together.
	gather = 20 * time.Millisecond
	// atLeast and atMost are how long is waited after an error.
	atLeast, atMost = 200 * time.Millisecond, 30 * time.Second
)

// Run does passes until ctx is done.
func (c *ControllerTask) Run(ctx context.Context) error {
	changes := news(ctx, c.Store, "", Pools, Hosts, Blocks)
	wait, leading := atLeast, false
	for ctx.Err() == nil {
		leads, err := c.Elector.Lead(ctx)
		if leads != leading {
			leading = leads
			c.Log.Info("who leads has changed", "leads", leads)
		}
		wrote := false
		if err == nil && leads {
			wrote, err = c.Pass(ctx)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			c.Log.Warn("the store cannot be worked with: hosts keep what they have", "error", err)
			pause(ctx, nil, wait)
			wait = min(2*wait, atMost)
			continue
		case wrote:
			pause(ctx, nil, gather)
		case leads:
			pause(ctx, changes, min(c.Resync, c.Elector.Duration/3))
			pause(ctx, nil, gather)
		default:
			pause(ctx, nil, c.Elector.Duration/5)
		}
		wait = atLeast
	}
	return nil
}

// Run follows the host until ctx is done.
func (a *AgentTask) Run(ctx context.Context) error {
	changes := news(ctx, a.Store, a.Name, Hosts)
	wait := atLeast
	for ctx.Err() == nil {
		again, err := a.Step(ctx, nil)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			a.Log.Warn("this host goes on with what it has", "error", err)
			pause(ctx, nil, wait)
			wait = min(2*wait, atMost)
			continue
		case again:
			pause(ctx, nil, gather)
		default:
			pause(ctx, changes, a.Resync)
		}
		wait = atLeast
	}
	return nil
}

// pause waits for a while, give or take a fifth, or until something has changed.
func pause(ctx context.Context, changes <-chan struct{}, d time.Duration) {
	d += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(d))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changes:
	case <-timer.C:
	}
}

// news tells that something may have changed, until ctx is done. Watches that end are
// begun again.
func news(ctx context.Context, s Store, name string, kinds ...Kind) <-chan struct{} {
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, k := range kinds {
		go func() {
			for ctx.Err() == nil {
				watch(ctx, s, k, name, tell)
				tell() // what came meanwhile was not told
				pause(ctx, nil, time.Second)
			}
		}()
	}
	return changed
}

func watch(ctx context.Context, s Store, k Kind, name string, tell func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision := uint64(0)
	if name == "" {
		var err error
		if _, revision, err = s.List(ctx, k); err != nil {
			return
		}
	}
	ch, err := s.Watch(ctx, k, name, revision)
	if err != nil {
		return
	}
	for range ch {
		tell()
	}
}
