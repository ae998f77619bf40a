//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/natless/natless/config/api"
)

// churn puts and deletes workloads at a steady rate, in the order of their
// coming. While the daemon is away it tries again, as CNI does.
type churn struct {
	r             *rig
	client        *api.Client
	first, next   atomic.Uint64 // those between are there
	puts, retries atomic.Int64
	cancel        context.CancelFunc
	done          sync.WaitGroup
}

func startChurn(r *rig) *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{r: r, client: r.client, cancel: cancel}
	r.Cleanup(cancel)
	c.done.Go(func() { c.run(ctx) })
	return c
}

// present is how many workloads there are now.
func (c *churn) present() int { return int(c.next.Load() - c.first.Load()) }

func (c *churn) run(ctx context.Context) {
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		full := c.present() >= *population
		c.put(ctx, c.next.Load())
		if !full { // the first ones come at once
			continue
		}
		c.delete(ctx, c.first.Load())
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (c *churn) put(ctx context.Context, n uint64) {
	ip := netip.MustParseAddr(fmt.Sprintf("2001:db8:7:%x::1:%x", n>>16&0xffff, n&0xffff))
	c.again(ctx, func() error {
		_, err := c.client.Put(ctx, key(n), api.Request{Name: fmt.Sprintf("soak/%d", n), IPv6: []netip.Addr{ip}})
		return err
	})
	c.next.Add(1)
	c.puts.Add(1)
}

func (c *churn) delete(ctx context.Context, n uint64) {
	c.again(ctx, func() error {
		err := c.client.Delete(ctx, key(n))
		if errors.Is(err, api.ErrNotFound) { // a try before, whose answer was lost
			return nil
		}
		return err
	})
	c.first.Add(1)
}

// again calls f until it succeeds.
func (c *churn) again(ctx context.Context, f func() error) {
	for began := time.Now(); ; c.retries.Add(1) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			c.r.Errorf("nothing but errors for 30 s: %v", err)
			c.cancel()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *churn) stop() {
	c.cancel()
	c.done.Wait()
}

// check compares what the daemon has with what was put, and wants every port to
// have one owner.
func (c *churn) check() {
	all, err := c.client.List(c.r.Context(), api.Filter{})
	if err != nil {
		c.r.Fatal(err)
	}
	// The last put and delete may have been cut off between the deed and the answer.
	if had := c.present(); len(all) < had-2 || len(all) > had+2 {
		c.r.Errorf("%d workloads are left of %d", len(all), had)
	}
	owners := make(map[netip.AddrPort]string)
	for _, w := range all {
		for port := range w.Ports.Ports() {
			at := netip.AddrPortFrom(w.Address, port)
			if other, taken := owners[at]; taken {
				c.r.Fatalf("%v belongs to %s and to %s", at, other, w.Key.String())
			}
			owners[at] = w.Key.String()
		}
	}
	c.r.Logf("%d workloads, %d ports, each of one owner; %d puts, %d tries again", len(all), len(owners), c.puts.Load(), c.retries.Load())
}
