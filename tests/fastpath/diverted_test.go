//go:build linux

package fastpath

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/tests/output"
)

// TestDivertedWhenKilled: what goes by the daemon because somebody looks goes by the fast
// path again when the daemon is killed, or hangs, or leaves its device to the next.
func TestDivertedWhenKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seen.pcapng")
	looks := map[string][]string{
		"monitor": {"monitor"}, "monitor --all": {"monitor", "--all"},
		"capture": {"capture", "-w", file}, "capture --all": {"capture", "--all", "-w", file},
	}
	for name, look := range looks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newTopology(t, required)
			n.daemon.Start()
			n.attached("uplink w1 w2")
			n.looks(look...)
			n.daemon.Kill()
			if err := n.ping(n.w1, 40); err != nil {
				t.Errorf("the daemon was killed: %v", err)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		n := newTopology(t, required)
		n.daemon.Start()
		n.attached("uplink w1 w2")
		n.looks("monitor", "--all")
		n.daemon.Signal(syscall.SIGSTOP)
		within(t, 5*time.Second, "a daemon that hangs gets no more", func() bool { return n.ping(n.w1, 1) == nil })
		if err := n.ping(n.w1, 40); err != nil {
			t.Errorf("the daemon hangs: %v", err)
		}
		n.daemon.Signal(syscall.SIGCONT)
		n.leaves()
	})
	t.Run("handover", func(t *testing.T) {
		t.Parallel()
		n := newTopology(t, required)
		n.daemon.Flags = []string{"--handover"}
		n.daemon.Start()
		n.attached("uplink w1 w2")
		n.looks("monitor", "--all")
		n.daemon.Kill() // the service manager holds the device
		within(t, 5*time.Second, "a device that nobody reads gets no more", func() bool { return n.ping(n.w1, 1) == nil })
		if err := n.ping(n.w1, 40); err != nil {
			t.Errorf("the daemon was killed: %v", err)
		}
	})
}

// looks has somebody look at packets, until the daemon translates them.
func (n *topology) looks(args ...string) {
	n.t.Helper()
	var notes output.Buffer
	look := exec.Command(filepath.Join(daemon.Build(n.t), "natless"), append(args, "--socket", n.daemon.Socket)...)
	look.Stderr = &notes
	if err := netns.Start(look); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { look.Process.Kill(); look.Wait() })
	within(n.t, 20*time.Second, "somebody looks", func() bool { return strings.Contains(notes.String(), "Ctrl-C") })
	n.leaves()
}

// leaves fails the test where the fast path does not leave packets to the daemon.
func (n *topology) leaves() {
	n.t.Helper()
	within(n.t, 5*time.Second, "packets go by the daemon", func() bool {
		before := n.kernel()
		return n.ping(n.w1, 10) == nil && n.kernel() == before
	})
}
