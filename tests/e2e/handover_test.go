//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// newHandover is a topology whose daemon leaves its device to the next.
func newHandover(t *testing.T, more ...string) *topology {
	t.Helper()
	netns.Require(t, netns.Root, "nft")
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, baseConfig+strings.Join(more, "\n"))
	n.daemon.Flags = []string{"--handover"}
	n.daemon.Start()
	return n
}

// A restart under a service manager with a descriptor store loses no packet
// that the queues can hold, however the daemon ended.
func TestRestartLosesNothing(t *testing.T) {
	for _, queues := range []string{"1", "2"} {
		t.Run("queues="+queues, func(t *testing.T) {
			n := newHandover(t, "device: {queues: "+queues+"}")
			index := n.index()
			for _, end := range []struct {
				name string
				end  func()
				lost int64 // each time: what a killed one had read and not yet written
			}{{"SIGTERM", n.daemon.Stop, 0}, {"SIGKILL", n.daemon.Kill, 4}} {
				const rounds = 4
				flows := []*load.Datagrams{load.SendDatagrams(t, n.w1, n.server, serverv6), load.SendDatagrams(t, n.server, n.w1, workload1v4)}
				var outage time.Duration
				for range rounds {
					time.Sleep(200 * time.Millisecond)
					begin := time.Now()
					end.end()
					n.daemon.Start()
					outage = max(outage, time.Since(begin))
				}
				time.Sleep(200 * time.Millisecond)
				for i, f := range flows {
					sent, lost := f.Finish()
					t.Logf("flow %d, %d times %s, at most %v to READY=1: %d of %d datagrams lost", i, rounds, end.name, outage.Round(time.Millisecond), lost, sent)
					if lost > rounds*end.lost || sent < 500 {
						t.Errorf("%d of %d lost", lost, sent)
					}
				}
			}
			if now := n.index(); now != index {
				t.Errorf("the device is another one now: %s, was %s", now, index)
			}
		})
	}
}

// Connections live on over restarts, and what --handover leaves goes with
// --cleanup.
func TestHandover(t *testing.T) {
	netns.Require(t, netns.Root, "nft")
	n := newNamespaces(t)
	before := n.state()
	n.daemon = daemon.New(t, n.host, baseConfig+"uplink: uplink\n")
	n.daemon.Flags = []string{"--handover"}
	n.daemon.Start()
	running := n.state()
	streams := n.streams()
	for range 3 {
		n.daemon.Stop()
		if diff := cmp.Diff(lines(running), lines(n.state())); diff != "" {
			t.Errorf("not left to the next:\n%s", diff)
		}
		n.daemon.Start()
		for _, s := range streams {
			s.Flows(20 * time.Second)
		}
	}
	// The store follows a device that was made anew.
	n.host.IP("link del natless0")
	within(t, 5*time.Second, "all is put right", func() bool { return n.state() == running })
	n.daemon.Stop()
	n.daemon.Start()
	if got := strings.Count(n.daemon.Log(), "the device was left to us"); got != 4 {
		t.Errorf("of 4 restarts %d found the device", got)
	}
	for _, s := range streams {
		s.Flows(20 * time.Second)
		s.Finish()
	}
	cleanup := []string{daemon.Build(t) + "/natlessd", "--config", n.daemon.Config, "--cleanup"}
	if out, err := n.host.Command(cleanup[0], cleanup[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "stop it first") {
		t.Errorf("--cleanup under a running daemon: %v, %s", err, out)
	}
	n.daemon.Stop()
	n.daemon.Release()
	n.host.Run(cleanup[0], cleanup[1:]...)
	if diff := cmp.Diff(lines(before), lines(n.state())); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// index is the interface index of the device, which another one would not have.
func (n *topology) index() string {
	index, _, _ := strings.Cut(n.host.Run("ip", "-o", "link", "show", "natless0"), ":")
	return index
}

// A restart with another number of queues cannot use those that the service manager
// keeps, nor make its device while that holds them: it says that they are not needed.
func TestHandoverWithOtherQueues(t *testing.T) {
	n := newHandover(t, "device: {queues: 1}")
	for _, queues := range []string{"3", "1", "2"} {
		stream := n.streams()[0]
		n.daemon.Stop()
		n.daemon.Write(baseConfig + "device: {queues: " + queues + "}\n")
		n.daemon.Start()
		stream.Flows(20 * time.Second)
		stream.Finish()
		before := n.index()
		n.daemon.Stop() // the new ones are stored
		n.daemon.Start()
		if now := n.index(); now != before {
			t.Errorf("%s queues: a restart made another device", queues)
		}
	}
}
