//go:build linux

package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

var networks = flag.Int("networks", 3000, "of TestSwap's policies; with 100,000 the figures mean something")

// other is a set of policies that lets the workload talk to the server, by another rule
// and among other networks each time: half of one and half of another would deny it.
func other(n, networks int) string {
	var b strings.Builder
	rule := func(name, action string, first int) {
		fmt.Fprintf(&b, "  - name: %s\n    tier: Admin\n    priority: %d\n    subject: {labels: {app: web}}\n    egress:\n      - {name: %s, action: %s, to: [{networks: [",
			name, len(name), name, action)
		for i := range networks / 2 {
			a := first + i*(1+n%3)
			fmt.Fprintf(&b, "%d.%d.%d.0/24, ", 20+a>>16, a>>8&255, a&255)
		}
	}
	fmt.Fprint(&b, "policies:\n")
	if n%2 == 0 {
		rule("a", "Accept", 1<<16)
		fmt.Fprint(&b, "192.0.2.2/32]}]}\n")
		rule("bb", "Deny", 9<<16)
		fmt.Fprint(&b, "0.0.0.0/0]}]}\n")
		return b.String()
	}
	rule("c", "Deny", 5<<16)
	fmt.Fprint(&b, "198.18.0.0/15]}]}\n")
	rule("dd", "Accept", 13<<16)
	fmt.Fprint(&b, "192.0.2.0/24]}]}\n      - {name: rest, action: Deny, to: [{networks: [0.0.0.0/0]}]}\n")
	return b.String()
}

// TestSwap: while policies are replaced again and again by others that let the same pass by
// other rules, nothing of a stream is denied: no packet is judged by half of one set and half
// of another, in the kernel, which leaves what it does not allow to the daemon, or there.
func TestSwap(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "sysctl")
	for _, path := range []string{"required", "off"} {
		t.Run("fast path "+path, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "policies.yaml")
			write := func(n int) {
				if err := os.WriteFile(file, []byte(other(n, *networks)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(0)
			n := newTopology(t, path, "policies_file: "+file+"\n")
			n.put(map[string]string{"app": "web"})
			s := load.StartPaced(t, n.w, n.server, server6)
			before, longest := s.Retransmitted(), time.Duration(0)
			for i := range 6 {
				write(i + 1)
				began := time.Now()
				if _, err := n.daemon.Client().Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				longest = max(longest, time.Since(began))
			}
			again := s.Retransmitted() - before // also for a machine that has no time: a measurement
			all, err := n.daemon.Client().Policies(t.Context(), api.PolicyQuestion{})
			if err != nil || len(all.Policies) != 2 || all.Policies[0].Workloads != 1 {
				t.Fatalf("%+v, %v", all, err)
			}
			if d := n.status().Verdicts["denied"] + n.status().Verdicts["denied-fragment"]; d > 0 {
				t.Errorf("%d packets were denied", d)
			}
			s.Finish()
			t.Logf("%d networks: the longest reload took %v; %d segments were sent again; the parts of all reloads:%s", *networks, longest, again, parts(n.daemon.Log()))
		})
	}
}

// parts are what the daemon says of how long each reload took.
func parts(log string) (said string) {
	for line := range strings.Lines(log) {
		if _, after, ok := strings.Cut(line, "mappings="); ok && strings.Contains(line, "reloaded") {
			_, after, _ = strings.Cut(after, " ")
			said += "\n\t" + strings.TrimSpace(after)
		}
	}
	return said
}
