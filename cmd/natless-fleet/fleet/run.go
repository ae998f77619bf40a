package fleet

import (
	"context"
	"errors"
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

// RelayTask is the agent of a relay that runs.
type RelayTask struct {
	RelayAgent
	Beat   time.Duration // how often it says that it lives
	Reread time.Duration // how long it goes by a watch alone
}

const (
	// gather is how long a change waits for more, so that a pass does them together.
	gather = 20 * time.Millisecond
	// acknowledge is the longest that a relay goes by a change before it says so: all hear of
	// it at once, and what they write is in the way of those that have not heard yet.
	acknowledge = 150 * time.Millisecond
	// atLeast and atMost are how long is waited after an error.
	atLeast, atMost = 200 * time.Millisecond, 30 * time.Second
	// knock is how often a host asks a store that does not answer whether it does again, and
	// listen how long it may take to say so. Relays and controllers, whom hosts wait for and who
	// are few, ask four times as often.
	knock, listen = time.Second, 5 * time.Second
)

// Run does passes until ctx is done.
func (c *ControllerTask) Run(ctx context.Context) error {
	changes := news(ctx, c.Store, "", wakes(), Pools, Hosts, Blocks, Relays)
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
			wait = rest(ctx, c.Store, Leaders, leader, wait)
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
	changes := news(ctx, a.Store, a.Name, nil, Hosts)
	wait := atLeast
	for ctx.Err() == nil {
		again, err := a.Step(ctx, nil)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			a.Log.Warn("this host goes on with what it has", "error", err)
			wait = rest(ctx, a.Store, Hosts, a.Name, wait)
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

// Run follows the blocks until ctx is done.
func (r *RelayTask) Run(ctx context.Context) error {
	wait := atLeast
	for ctx.Err() == nil {
		began := time.Now()
		err := r.follow(ctx)
		if time.Since(began) > atMost {
			wait = atLeast
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Warn("this relay goes on with the rules that it has", "error", err)
		}
		wait = rest(ctx, r.Store, Relays, r.Name, wait)
	}
	return nil
}

// follow reads what there is and goes by what a watch tells from there, until it ends.
func (r *RelayTask) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.view, r.own, r.is, r.unfit = nil, nil, nil, nil // its configuration may be another by now
	if err := r.step(ctx, true); err != nil {
		return err
	}
	blocks, err := r.Store.Watch(ctx, Blocks, "", r.epoch)
	if err != nil {
		return err
	}
	own, err := r.Store.Watch(ctx, Relays, r.Name, revisionOf(r.own.Version))
	if err != nil {
		return err
	}
	beat, reread := time.NewTicker(r.every()), time.NewTimer(r.Reread)
	var untold <-chan time.Time
	defer beat.Stop()
	defer reread.Stop()
	for {
		lives := false
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-blocks:
			if !open {
				return nil
			}
			if err := r.seeAll(e, blocks); err != nil {
				return err
			}
			r.later = true
			if untold == nil {
				untold = time.After(rand.N(acknowledge))
			}
		case <-untold:
			untold = nil
		case e, open := <-own:
			if !open {
				return nil
			}
			r.SeeOwn(e)
			if r.own != nil {
				continue
			}
		case <-beat.C:
			lives = true
		case <-reread.C:
			return nil
		}
		err := r.step(ctx, lives)
		r.later = false
		if err != nil {
			return err
		}
	}
}

// every is how often a relay says that it lives, and has natlessd hear that its rules hold.
func (r *RelayTask) every() time.Duration {
	if stale := time.Duration(r.is.StaleAfter * float64(time.Second)); stale > 0 {
		return min(r.Beat, stale/4)
	}
	return r.Beat
}

// seeAll notes a change, and those that are there already.
func (r *RelayTask) seeAll(e Event, more <-chan Event) error {
	for open := true; open; {
		if err := r.See(e); err != nil {
			return err
		}
		select {
		case e, open = <-more: // that it has ended is seen by the next who asks
		default:
			return nil
		}
	}
	return nil
}

// step is Step, once more where the relay's object was changed meanwhile.
func (r *RelayTask) step(ctx context.Context, beat bool) (err error) {
	for range 5 {
		if err = r.Step(ctx, beat); !errors.Is(err, errAgain) && (err != nil || !r.again) {
			break
		}
	}
	return err
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

// rest waits after an error, and says for how long after the next. Where the store does not
// answer at all, that is until it does: a fleet is not to be behind for longer than that.
func rest(ctx context.Context, s Store, k Kind, name string, wait time.Duration) (next time.Duration) {
	if answers(ctx, s, k, name) {
		pause(ctx, nil, wait)
		return min(2*wait, atMost)
	}
	for ctx.Err() == nil {
		if pause(ctx, nil, knocks(k, name)); answers(ctx, s, k, name) {
			break
		}
	}
	return atLeast
}

func knocks(k Kind, name string) time.Duration {
	if k == Hosts && name != "" {
		return knock
	}
	return knock / 4
}

func answers(ctx context.Context, s Store, k Kind, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, listen)
	defer cancel()
	_, err := s.Get(ctx, k, name)
	return err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrAnswered)
}

// news tells that something may have changed, until ctx is done. Watches that end are
// begun again. Where counts is not nil, it says what is worth telling.
func news(ctx context.Context, s Store, name string, counts func(Event) bool, kinds ...Kind) <-chan struct{} {
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
				watch(ctx, s, k, name, func(e Event) {
					if counts == nil || counts(e) {
						tell()
					}
				})
				tell() // what came meanwhile was not told
				pause(ctx, nil, knocks(k, name))
			}
		}()
	}
	return changed
}

func watch(ctx context.Context, s Store, k Kind, name string, tell func(Event)) {
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
	for e := range ch {
		tell(e)
	}
}
