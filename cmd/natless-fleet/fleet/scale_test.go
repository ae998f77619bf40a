package fleet_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/conformance"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

var scale = flag.Int("hosts", 200, "of TestScale, with 100 workloads each")

// counted is a store that counts what is written.
type counted struct {
	*fleet.Memory
	writes atomic.Int64
}

func (c *counted) Create(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	c.writes.Add(1)
	return c.Memory.Create(ctx, o)
}

func (c *counted) Update(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	c.writes.Add(1)
	return c.Memory.Update(ctx, o)
}

func (c *counted) UpdateStatus(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	c.writes.Add(1)
	return c.Memory.UpdateStatus(ctx, o)
}

// TestScale has many hosts take 100 workloads each: all are served, and what is written
// is by blocks and not by workloads.
func TestScale(t *testing.T) {
	t.Parallel()
	const each, perAddress = 100, 63
	s := &counted{Memory: fleet.NewMemory()}
	ctx, log := t.Context(), slog.New(slog.DiscardHandler)
	if _, err := fleet.Create(ctx, s, fleet.Pools, fleet.Pool{Name: "lent", Spec: fleet.PoolSpec{IPv4: []string{"10.0.0.0/16"}, BlockLength: 32}}); err != nil {
		t.Fatal(err)
	}
	hosts, agents := make([]*conformance.Natlessd, *scale), make([]fleet.Agent, *scale)
	for i := range hosts {
		hosts[i] = &conformance.Natlessd{PerAddress: perAddress}
		agents[i] = fleet.Agent{Name: fmt.Sprintf("host%05d", i), Store: s, Natlessd: hosts[i], Idle: time.Hour, Now: time.Now, Log: log}
	}
	c := fleet.Controller{Store: s, Log: log}
	var longest time.Duration
	passes := 0
	settle := func() {
		for again := true; again; {
			again = false
			var all sync.WaitGroup
			var more atomic.Bool
			for w := range runtime.GOMAXPROCS(0) {
				all.Go(func() {
					for i := w; i < len(agents); i += runtime.GOMAXPROCS(0) {
						if did, err := agents[i].Step(ctx, nil); err != nil {
							t.Error(err)
						} else if did {
							more.Store(true)
						}
					}
				})
			}
			all.Wait()
			for {
				began := time.Now()
				wrote, err := c.Pass(ctx)
				if longest, passes = max(longest, time.Since(began)), passes+1; err != nil {
					t.Fatal(err)
				}
				if !wrote {
					break
				}
				again = true
			}
			again = again || more.Load()
		}
	}
	began := time.Now()
	settle()
	placed := 0
	for range 2 {
		for _, h := range hosts {
			b, _ := h.Blocks(ctx)
			for _, one := range b.Blocks {
				for n := one.Workloads; n < perAddress && n < each/2; n++ {
					h.Use(one.IPv4.Addr(), 1)
					placed++
				}
			}
		}
		settle()
		// All but as many as ask for more before it is needed.
		for _, h := range hosts {
			b, _ := h.Blocks(ctx)
			if len(b.Blocks) == 1 {
				h.Use(b.Blocks[0].IPv4.Addr(), perAddress-1-b.Blocks[0].Workloads)
				placed += perAddress - 1 - b.Blocks[0].Workloads
			}
		}
		settle()
	}
	short := 0
	for _, h := range hosts {
		if b, _ := h.Blocks(ctx); b.Pools[0].Headroom < b.Pools[0].Low {
			short++
		}
	}
	blocks, _, err := s.List(ctx, fleet.Blocks)
	if err != nil || short > 0 || placed < *scale*each {
		t.Errorf("%d hosts are short, %d workloads, %v", short, placed, err)
	}
	if most := int64(*scale * 14); s.writes.Load() > most {
		t.Errorf("%d writes for %d hosts", s.writes.Load(), *scale)
	}
	t.Logf("%d hosts, %d workloads, %d blocks: %d writes, %d passes, the longest %v, all of it in %v (agents and controller share this machine's processors)", *scale, placed, len(blocks), s.writes.Load(), passes,
		longest.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}
