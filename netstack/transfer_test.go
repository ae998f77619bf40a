package netstack

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/natless/natless/netstack/host"
)

var megabytes = flag.Int64("transfer", 16, "`MB` that TestTransfer moves; make soak moves 10240")

// TestTransfer moves much data over a link that loses and reorders packets and
// whose MTU changes on the way, a quarter on each side of the translator and in
// each direction, and compares sums. gVisor's sender stops for good now and then,
// where it loses packets and gets no processor for long: bytes are unacknowledged and
// its timer is off (seen with RACK, without it, and without SACK). Another connection
// is made then: what the translator loses, it loses of each.
func TestTransfer(t *testing.T) {
	share := *megabytes << 20 / 4
	eachSide(t, func(t *testing.T, s side) {
		for left := 2; ; left-- {
			err := transfer(t, s, share)
			if stopped := net.Error(nil); left > 0 && errors.As(err, &stopped) && stopped.Timeout() {
				t.Logf("another connection: %v", err)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	})
}

func transfer(t *testing.T, s side, share int64) error {
	const losses, lates = 20, 200 // in each direction, however much there is: a loss may cost gVisor 0.2 s
	packets := float64(share) / 1400
	p := newPair(t, s, 1500, min(0.01, losses/packets), min(0.02, lates/packets))
	for _, h := range []*host.Host{p.here, p.there} {
		if err := h.SetBuffers(4<<10, 128<<10, 128<<10); err != nil {
			return err
		}
	}
	client, server := connect(t, p.here, p.there, s.to, s.there[0])
	began := time.Now()
	// gVisor learns of a smaller MTU, and never of a larger one, and loses
	// 0.2 s for each packet that is under way then, without us just as well.
	shrink := func(mtu int32) func(int64) {
		return func(at int64) {
			if at > share/2 {
				p.wire.mtu.Store(mtu)
			}
		}
	}
	if err := send(client, server, share, shrink(1400)); err != nil {
		return fmt.Errorf("from here: %w", err)
	}
	p.wire.mtu.Store(1500)
	if err := send(server, client, share, shrink(1300)); err != nil {
		return fmt.Errorf("from there: %w", err)
	}
	took := time.Since(began)
	w := p.wire
	t.Logf("%d MB in %v (%.0f MB/s); %d packets lost, %d late, %d too big", share>>19, took.Round(time.Millisecond),
		float64(share>>19)/took.Seconds(), w.lost.Load(), w.late.Load(), w.tooBig.Load())
	if w.lost.Load() == 0 || w.late.Load() == 0 || w.tooBig.Load() < 2 {
		return errors.New("the link was too kind")
	}
	return nil
}
