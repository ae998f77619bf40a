//go:build linux

package ipfix

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/natless/natless/netstack/flows"
)

// slow is a collector that takes each message in the last moment.
type slow struct {
	net.Conn
	until time.Time
}

func (s *slow) SetWriteDeadline(t time.Time) error { s.until = t; return nil }

func (s *slow) Close() error { return nil }

func (s *slow) Write(b []byte) (int, error) {
	const takes = patience - time.Second
	if left := time.Until(s.until); left < takes {
		time.Sleep(left)
		return 0, context.DeadlineExceeded
	}
	time.Sleep(takes)
	return len(b), nil
}

// A collector that hardly reads keeps nobody from ending.
func TestEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Config{Transport: "tcp", Owners: func() iter.Seq[Owner] { return func(func(Owner) bool) {} },
			Serial: func(any) uint64 { return 0 }, Log: slog.New(slog.DiscardHandler)})
		for range 30 {
			e.Put(make([]flows.Record, 512))
		}
		e.conn = new(slow)
		ctx, cancel := context.WithCancel(t.Context())
		defer e.untilEnd(ctx)()
		began := time.Now()
		cancel()
		synctest.Wait()
		if err := e.rest(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 2*patience {
			t.Errorf("it took %v", took)
		}
	})
}
