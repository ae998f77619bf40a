//go:build linux

package dataplane_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// hanging is an observer that keeps the thread until it is let go.
type hanging struct {
	watcher
	hold chan struct{}
	held atomic.Bool // a packet is in its hands
}

func (h *hanging) Read(int, *translator.Packet) {
	h.held.Store(true)
	<-h.hold
}

func TestStalled(t *testing.T) { eachIO(t, testStalled) }

func testStalled(t *testing.T, io tun.IO) {
	const patience = time.Second
	n := newTopology(t, tun.Config{IO: io, Queues: 2}, nil)
	n.w6.Run("ping", "-c", "3", "-i", "0.05", server6)
	const busy = 20 * time.Second // for what is soon where the machine has nothing else to do
	begin := time.Now()
	if err := n.plane.Stalled(t.Context(), busy); err != nil || time.Since(begin) > busy/2 {
		t.Errorf("idle: %v after %v", err, time.Since(begin))
	}
	flood := n.w6.Command("ping", "-q", "-f", "-c", "10000000", server6)
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := n.plane.Stalled(t.Context(), busy); err != nil {
			t.Errorf("at work: %v", err)
		}
	}
	h := &hanging{hold: make(chan struct{})}
	n.plane.Observe(h)
	for end := time.Now().Add(busy); !h.held.Load() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	err := n.plane.Stalled(t.Context(), patience)
	flood.Process.Kill()
	flood.Wait()
	n.plane.Observe(nil)
	close(h.hold)
	if err == nil || !strings.Contains(err.Error(), "does not get on") {
		t.Errorf("hanging: %v", err)
	}
	if err := n.plane.Stalled(t.Context(), busy); err != nil {
		t.Errorf("let go: %v", err)
	}
	// Another device, whose counters begin anew.
	n.x.IP("link del natless0")
	for end := time.Now().Add(busy); n.plane.Snapshot().Reopened == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the device was not made anew")
		}
	}
	if err := n.plane.Stalled(t.Context(), busy); err != nil || n.plane.Device() == nil {
		t.Errorf("made anew: %v", err)
	}
}
