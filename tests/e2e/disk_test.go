//go:build linux

package e2e

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

// TestFullDisk: with the registry's disk full, those who have something keep it,
// over a kill too; who wants something is told to try again, a reload works, and a
// backup can be made. A registry that was lost is not replaced in silence.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about the registry")
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	path := filepath.Join(disk, "registry.db")
	config := func(history string) string {
		return poolsConfig + "registry: {path: " + path + ", history: " + history + "}\n"
	}
	n.daemon = daemon.Start(t, n.host, config("1000"))
	one := n.put("one", workload1, n.w1, api.Request{})
	for range 60 {
		n.put("gone", workload2, n.w2, api.Request{Name: strings.Repeat("x", 400)})
		if err := n.daemon.Client().Delete(t.Context(), keyOf("gone")); err != nil {
			t.Fatal(err)
		}
	}
	filler, err := os.Create(filepath.Join(disk, "filler"))
	for block := make([]byte, 512); err == nil; _, err = filler.Write(block) {
	}
	filler.Close()
	refused := error(nil)
	for i := 0; refused == nil && i < 200; i++ {
		q := one.Request
		q.Name = strings.Repeat(string(rune('a'+i%26)), 400) // a change each time
		if _, refused = n.daemon.Client().Put(t.Context(), one.Key, q); refused == nil && i%2 == 0 {
			q.IPv6 = []netip.Addr{netip.MustParseAddr(workload2)}
			if _, refused = n.daemon.Client().Put(t.Context(), keyOf("two"), q); refused != nil {
				break
			}
			refused = n.daemon.Client().Delete(t.Context(), keyOf("two"))
		}
	}
	if !errors.Is(refused, api.ErrStorage) {
		t.Fatalf("on a full disk: %v", refused)
	}
	if got := n.natless("status"); !strings.Contains(got, "new workloads wait") {
		t.Errorf("status says nothing of it:\n%s", got)
	}
	n.daemon.Write(config("10"))
	if got := n.natless("reload"); got != "the configuration was reloaded\n" {
		t.Errorf("reload: %s", got)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if got := n.natless("registry", "backup", backup); !strings.HasPrefix(got, "backed up") {
		t.Errorf("backup: %s", got)
	}
	before := n.natless("workloads", "-o", "json")
	n.daemon.Kill()
	n.daemon.Start()
	if after := n.natless("workloads", "-o", "json"); after != before {
		t.Errorf("before a kill on a full disk:\n%s\nand after:\n%s", before, after)
	}
	n.daemon.Kill()
	os.Remove(filler.Name())
	os.Remove(path)
	lost := n.host.Command(filepath.Join(daemon.Build(t), "natlessd"), "--config", n.daemon.Config)
	if out, err := lost.CombinedOutput(); lost.ProcessState.ExitCode() != 78 || !strings.Contains(string(out), "natless registry restore BACKUP "+path) {
		t.Errorf("a registry that is gone: %v\n%s", err, out)
	}
	if _, _, err := registry.Restore(backup, path); err != nil {
		t.Fatal(err)
	}
	n.daemon.Start()
	if after := n.natless("workloads", "-o", "json"); after != before {
		t.Errorf("before:\n%s\nand restored:\n%s", before, after)
	}
}
