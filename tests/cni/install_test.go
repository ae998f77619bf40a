//go:build linux

package cni

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestDirectoryRemoved: the directory of network configurations is removed and made anew,
// as an administrator does. The installer, which has the old one mounted as a container
// has it, would wait in it for ever: it ends. What one before left half lies there no more.
func TestDirectoryRemoved(t *testing.T) {
	daemon.OnePath(t, "no packet is sent")
	netns.Require(t, netns.Root, "unshare")
	bin := daemon.Build(t)
	for _, name := range []string{"conf", "bin"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			at := func(name string) string { return filepath.Join(base, name) }
			for _, dir := range []string{"conf", "bin", "seen", "seen/conf", "seen/bin"} {
				if err := os.Mkdir(at(dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			half := at("conf/.natless-half")
			if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec",
				`for d in conf bin; do mount --bind "$0/$d" "$0/seen/$d"; done; exec "$1" cni install --watch --plugin "$2" --conf-dir "$0/seen/conf" --bin-dir "$0/seen/bin"`,
				base, filepath.Join(bin, "natless"), filepath.Join(bin, "natless-cni"))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var problem strings.Builder
			cmd.Stderr = &problem
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill() })
			if said := bufio.NewScanner(out); !said.Scan() || !strings.HasPrefix(said.Text(), "waiting for a *.conflist") {
				t.Fatalf("it said %q, %s", said.Text(), problem.String())
			}
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(half, old, old); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, func() error {
				_, err := os.Lstat(half)
				if err == nil {
					return os.ErrExist
				}
				return nil
			})
			eventually(t, 10*time.Second, func() error { return os.RemoveAll(at(name)) }) // it may write there meanwhile
			if err := os.Mkdir(at(name), 0o755); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(problem.String(), "somebody has removed this directory") {
					t.Errorf("it ended: %v, %s", err, problem.String())
				}
			case <-time.After(time.Minute):
				t.Error("it goes on with a directory that nobody else sees")
			}
		})
	}
}
