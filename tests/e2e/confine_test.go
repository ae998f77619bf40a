//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon that is ready keeps three capabilities of root's forty, on every
// thread, and still does all that it is there for.
func TestConfined(t *testing.T) {
	n := newTopology(t, "uplink: uplink")
	const kept = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", n.daemon.PID()))
	if err != nil || len(threads) < 3 {
		t.Fatal(threads, err)
	}
	for _, path := range threads {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		for field, want := range map[string]string{
			"CapPrm": fmt.Sprintf("%016x", kept), "CapEff": fmt.Sprintf("%016x", kept), "CapBnd": fmt.Sprintf("%016x", kept),
			"CapInh": fmt.Sprintf("%016x", 0), "CapAmb": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1",
		} {
			if !strings.Contains(string(status), "\n"+field+":\t"+want+"\n") {
				t.Errorf("%s: %s is not %s\n%s", path, field, want, status)
			}
		}
	}
	if log := n.daemon.Log(); strings.Contains(log, "more rights") {
		t.Error(log)
	}
	state := n.state()
	n.host.Run("sysctl", "-qw", "net.ipv4.conf.uplink.forwarding=0")
	n.host.Run("nft", "flush", "ruleset")
	n.host.IP("link del natless0")
	within(t, 5*time.Second, "device, rules and sysctls are put right", func() bool { return n.state() == state })
	n.reload(baseConfig+"uplink: uplink\ntraffic_class: zero\n", "msg=reloaded")
	n.w1.Run("ping", "-n", "-c", "1", "-W", "2", serverv6)
	n.daemon.Stop()
	if log := n.daemon.Log(); strings.Contains(log, "permission denied") || strings.Contains(log, "not permitted") {
		t.Error(log)
	}
}
