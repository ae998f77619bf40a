package fleet_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/natless/natless/cmd/natless-fleet/fleet"
)

// told counts what is written of statuses.
type told struct {
	fleet.Store
	times int
}

func (s *told) UpdateStatus(ctx context.Context, o fleet.Object) (fleet.Object, error) {
	s.times++
	return s.Store.UpdateStatus(ctx, o)
}

// TestAcknowledgesLater: natlessd goes by a change at once, and the fleet hears of it a moment
// later, of several at once.
func TestAcknowledgesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.block(1, fleet.Offered)
		writes := &told{Store: s.store}
		s.agent.Store = writes
		task := fleet.RelayTask{RelayAgent: *s.agent, Beat: time.Hour, Reread: time.Hour}
		ctx, end := context.WithCancel(t.Context())
		go task.Run(ctx)
		time.Sleep(time.Second)
		synctest.Wait()
		before, at := writes.times, s.relay().Status
		for n := range 5 {
			s.block(2+n, fleet.Offered)
			synctest.Wait()
			if is, err := s.d.Relay(t.Context()); err != nil || is.Count != 2+n {
				t.Errorf("natlessd goes by %d rules of %d (%v)", is.Count, 2+n, err)
			}
		}
		if now := s.relay().Status; now.Epoch != at.Epoch || writes.times != before {
			t.Errorf("at once the fleet hears of %d after %d", now.Epoch, at.Epoch)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if now := s.relay().Status; now.Epoch <= at.Epoch || now.Rules != 6 || writes.times != before+1 {
			t.Errorf("the fleet has heard %d times, of %d rules, of epoch %d after %d", writes.times-before, now.Rules, now.Epoch, at.Epoch)
		}
		end()
		synctest.Wait()
	})
}
