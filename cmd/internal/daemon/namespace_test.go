//go:build linux

package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// TestNamespaceExists: what cannot be seen is not gone. The process of another PID
// namespace is not, and the directory of one that is not mounted here.
func TestNamespaceExists(t *testing.T) {
	dir := t.TempDir()
	const nobody = "/proc/4194304/ns/net" // above the kernel's limit of process IDs
	if path := os.Getenv("NATLESS_TEST_NAMESPACE"); path != "" {
		fmt.Println("exists:", namespaceExists(path))
		return
	}
	file := filepath.Join(dir, "here")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		file: true, filepath.Join(dir, "gone"): false, filepath.Join(dir, "none/gone"): true,
		fmt.Sprintf("/proc/%d/ns/net", os.Getpid()): true, nobody: !seesAllProcesses(),
	} {
		if got := namespaceExists(path); got != want {
			t.Errorf("%s exists: %t, want %t", path, got, want)
		}
	}
	netns.Require(t, netns.Root)
	cmd := exec.Command(os.Args[0], "-test.run=^TestNamespaceExists$", "-test.v")
	cmd.Env = append(os.Environ(), "NATLESS_TEST_NAMESPACE="+nobody)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID} // of its own, and this /proc
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "exists: true") {
		t.Errorf("in a PID namespace of its own: %v\n%s", err, out)
	}
}
