//go:build linux

package crash

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// failpoint is the environment variable that names where natlessd kills itself.
const failpoint = "NATLESS_FAILPOINT"

// killingDir is where killing's natlessd is; TestMain removes it.
var killingDir string

// killing is a natlessd that kills itself where the variable says.
func killing(t *testing.T) string {
	t.Helper()
	out, err := built()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(killingDir, "natlessd")
}

var built = sync.OnceValues(func() (out []byte, err error) {
	if killingDir, err = os.MkdirTemp("", "natless-killing-"); err != nil {
		return nil, err
	}
	const module = "github.com/natless/natless/"
	return exec.Command("go", "build", "-o", killingDir+"/", "-ldflags", "-s -w "+
		"-X "+module+"netstack/engine.failpoint="+failpoint+" -X "+module+"config/registry.failpoint="+failpoint, module+"cmd/natlessd").CombinedOutput()
})

// TestFailpoints kills natlessd at every step of a reload and of what it writes,
// while workloads come and go: the next start finds the state before or the one
// after, in registry and kernel, and nobody has lost what was acknowledged, or has
// what another has.
func TestFailpoints(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	binary := killing(t)
	ctx, cancel := context.WithCancel(context.Background())
	var churning sync.WaitGroup
	for w := range workers {
		churning.Go(func() { h.churn(ctx, w) })
	}
	defer churning.Wait()
	defer cancel()
	for _, point := range []string{"guard", "translator", "fast path", "routes", "end", "registry: write", "registry: written"} {
		h.killsItself(binary, point)
		if _, err := registry.Check(h.registry); err != nil {
			t.Errorf("%s: %v", point, err)
		}
		h.begin()
		h.look()
		h.same(h.state[h.config], "killed at "+point+": after the next start")
		h.daemon.Kill()
		h.daemon.Release() // the one that kills itself is nobody's successor
	}
	h.Run(binary, "--config", h.daemon.Config, "--cleanup")
	h.clean("at the end")
	cancel()
	churning.Wait()
	for _, wrong := range judge(h.history) {
		t.Error(wrong)
	}
}

// killsItself runs a natlessd until it comes by a point, where it is killed.
func (h *host) killsItself(binary, point string) {
	h.t.Helper()
	cmd := h.Command(binary, "--config", h.daemon.Config)
	cmd.Env = append(os.Environ(), failpoint+"="+point)
	if err := netns.Start(cmd); err != nil {
		h.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	gone := func() bool {
		select {
		case <-exited:
			return true
		default:
			return false
		}
	}
	load.Within(h.t, 20*time.Second, "a natlessd that is ready, or has killed itself", func() bool {
		s, err := h.daemon.Client().Status(h.t.Context())
		return gone() || err == nil && s.Ready
	})
	if !gone() {
		h.write(1 - h.config)
		cmd.Process.Signal(syscall.SIGHUP)
	}
	load.Within(h.t, 20*time.Second, "it comes by "+point, gone)
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGKILL {
		h.t.Errorf("%s: it ended with %v", point, cmd.ProcessState)
	}
}
