//go:build linux

package e2e

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// systemd's watchdog hears from a daemon that gets on, and nothing from one that
// does not.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about the daemon itself")
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

// TestWatchdogHearsNoCrowd: hundreds who want to watch, who want to know all
// workloads, and who stop in the middle of what they ask, keep the daemon from
// nothing: the watchdog is answered, a container gets its address.
func TestWatchdogHearsNoCrowd(t *testing.T) {
	daemon.OnePath(t, "it is about the API")
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, poolsConfig)
	n.daemon.Env = []string{"WATCHDOG_USEC=400000"}
	n.daemon.Start()
	for i := range 900 {
		c, err := net.Dial("unix", n.daemon.Socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", []string{"GET /v1/watch", "GET /v1/workloads", "PUT /v1/workloads/half/eth0"}[i%3], i%3/2*9)
	}
	for range 3 {
		before := n.daemon.Notified("WATCHDOG=1")
		within(t, 20*time.Second, "the watchdog is answered", func() bool { return n.daemon.Notified("WATCHDOG=1") > before+1 })
		if got := n.natless("status"); !strings.Contains(got, "api-requests watch") {
			t.Errorf("natless status:\n%s", got)
		}
		n.put("one", workload1, n.w1, api.Request{})
	}
	if strings.Contains(n.daemon.Log(), "does not get on") {
		t.Error("the daemon held itself for stuck")
	}
}
