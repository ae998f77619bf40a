//go:build linux

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestDemoWithoutRoot: natless demo needs no privilege, no network and no file
// of ours.
func TestDemoWithoutRoot(t *testing.T) {
	daemon.OnePath(t, "no packet is sent")
	netns.Require(t, netns.Root, "setpriv", "install")
	ns := netns.New(t, "alone")
	program := filepath.Join("/tmp", ns.Name)
	if out, err := exec.Command("install", "-m", "755", filepath.Join(daemon.Build(t), "natless"), program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("rm", "-f", program).Run() })
	began := time.Now()
	out := ns.Run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all", program, "demo")
	t.Logf("%v", time.Since(began).Round(time.Millisecond))
	if strings.Count(out, "the right sha256") != 2 || !strings.Contains(out, "natless whois 198.51.100.7:") {
		t.Error(out)
	}
}
