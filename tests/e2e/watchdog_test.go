//go:build linux

package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// systemd's watchdog hears from a daemon that gets on, and nothing from one that
// does not.
func TestWatchdog(t *testing.T) {
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, baseConfig)
	n.daemon.Env = []string{"WATCHDOG_USEC=400000"}
	n.daemon.Start()
	s := n.streams()[0]
	within(t, 5*time.Second, "the watchdog is answered under load", func() bool { return n.daemon.Notified("WATCHDOG=1") > 3 })
	s.Flows(10 * time.Second)
	n.daemon.Signal(syscall.SIGSTOP)
	time.Sleep(100 * time.Millisecond)
	before := n.daemon.Notified("WATCHDOG=1")
	time.Sleep(800 * time.Millisecond)
	if got := n.daemon.Notified("WATCHDOG=1"); got != before {
		t.Errorf("a stopped daemon answered %d times", got-before)
	}
	n.daemon.Signal(syscall.SIGCONT)
	within(t, 5*time.Second, "it answers again", func() bool { return n.daemon.Notified("WATCHDOG=1") > before })
}
