//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/netstack/fastpath/attach"
	"github.com/natless/natless/netstack/route"
)

// What fast_path: required means. Where the kernel cannot do it, the daemon ends
// with the reason. Where it could and does not, since the uplink is not there or
// is none that can be accelerated, or somebody else is at the hook, the daemon is
// not ready, and says why in its log, in the status and to who asks for health:
// packets take the way through it meanwhile.

const (
	// lookEvery is how often it looks until the kernel translates.
	lookEvery = 100 * time.Millisecond
	// sayEvery is how often it says that it does not.
	sayEvery = 30 * time.Second
)

// insufficient says why the fast path is not what is required, or nil.
func (f *fastPath) insufficient() error {
	if f == nil || f.mode != config.FastPathRequired || f.Manager == nil {
		return nil
	}
	return lacks(f.Status())
}

func lacks(s attach.Status) error {
	var errs []error
	uplinks := 0
	for _, i := range s.Interfaces {
		if i.Error != "" {
			errs = append(errs, fmt.Errorf("%s: %s", i.Name, i.Error))
		} else if i.Uplink {
			uplinks++
		}
	}
	if !s.On || uplinks == 0 {
		errs = append(errs, errors.New(s.Detail))
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("fast_path: required, but %w", errors.Join(errs...))
}

// insisting is the fast path's task where it is required.
type insisting struct {
	*fastPath
	ready chan struct{}
	once  sync.Once
}

// Ready is closed when the kernel translates for the first time.
func (i *insisting) Ready() <-chan struct{} { return i.ready }

// Run is the manager's.
func (i *insisting) Run(ctx context.Context) error {
	looking, cancel := context.WithCancel(ctx)
	var look sync.WaitGroup
	look.Go(func() { i.look(looking) })
	err := i.Manager.Run(ctx)
	cancel()
	look.Wait()
	return err
}

func (i *insisting) look(ctx context.Context) {
	select {
	case <-i.Manager.Ready():
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var said time.Time
	for {
		err := i.insufficient()
		if err == nil {
			i.once.Do(func() { close(i.ready) })
			return
		}
		if time.Since(said) > sayEvery {
			said = time.Now()
			i.log.Error("natlessd is not ready", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// insisted says whether what the configuration asks for is so: the fast path, and
// the uplink.
func (s *server) insisted(c *config.Config) (checks []api.Check) {
	if c.FastPath == config.FastPathRequired {
		check := api.Check{Name: "fast path", State: "ok"}
		if err := s.fastPath.insufficient(); err != nil {
			check.State, check.Detail = "fail", err.Error()
		}
		checks = append(checks, check)
	}
	if bridge, err := route.BridgeOf(c.Uplink); err == nil && bridge != "" {
		check := api.Check{Name: "uplink", State: "ok", Detail: fmt.Sprintf("%s is a port of bridge %s, which is used", c.Uplink, bridge)}
		if bridge != s.uplink {
			check.State, check.Detail = "fail", fmt.Sprintf("%s has become a port of bridge %s: restart natlessd, or configure uplink: %s",
				c.Uplink, bridge, bridge)
		}
		checks = append(checks, check)
	}
	return checks
}
