//go:build linux

package dataplane_test

import (
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/netstack/tun"
	"github.com/natless/natless/translator"
)

// hanging is an observer that keeps the thread until it is let go.
type hanging struct {
	watcher
	hold chan struct{}
}

func (h *hanging) Read(int, *translator.Packet) { <-h.hold }

func TestStalled(t *testing.T) { eachIO(t, testStalled) }

func testStalled(t *testing.T, io tun.IO) {
	const patience = time.Second
	n := newTopology(t, tun.Config{IO: io, Queues: 2}, nil)
	n.w6.Run("ping", "-c", "3", "-i", "0.05", server6)
	begin := time.Now()
	if err := n.plane.Stalled(t.Context(), patience); err != nil || time.Since(begin) > patience/2 {
		t.Errorf("idle: %v after %v", err, time.Since(begin))
	}
	flood := n.w6.Command("ping", "-q", "-f", "-c", "100000", server6)
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := n.plane.Stalled(t.Context(), patience/5); err != nil {
			t.Errorf("at work: %v", err)
		}
	}
	h := &hanging{hold: make(chan struct{})}
	n.plane.Observe(h)
	time.Sleep(100 * time.Millisecond) // until a packet is in its hands
	err := n.plane.Stalled(t.Context(), patience)
	flood.Process.Kill()
	flood.Wait()
	n.plane.Observe(nil)
	close(h.hold)
	if err == nil || !strings.Contains(err.Error(), "does not get on") {
		t.Errorf("hanging: %v", err)
	}
	time.Sleep(200 * time.Millisecond)
	if err := n.plane.Stalled(t.Context(), patience); err != nil {
		t.Errorf("let go: %v", err)
	}
	// Another device, whose counters begin anew.
	n.x.IP("link del natless0")
	time.Sleep(500 * time.Millisecond)
	if err := n.plane.Stalled(t.Context(), patience); err != nil || n.plane.Device() == nil {
		t.Errorf("made anew: %v", err)
	}
}
