//go:build linux

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/config"
	"github.com/natless/natless/tests/netns"
)

// TestRemoveAll checks that what one part of the cleaning up cannot do keeps the
// others from nothing: here routes fail, and what polices workloads goes.
func TestRemoveAll(t *testing.T) {
	netns.Require(t, netns.Root, "nft")
	ns := netns.New(t, "x")
	ns.Run("nft", "add table inet natless-guard; add chain inet natless-guard guard; add rule inet natless-guard guard accept")
	c := config.Default()
	c.API.Socket = filepath.Join(t.TempDir(), "socket")
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.API.Socket), c.Device.Name+".sysctls.json"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var status int
	ns.Do(func() { status = removeAll(&c, &out) })
	if status != 1 || !strings.Contains(out.String(), "state file") {
		t.Errorf("status %d: %s", status, &out)
	}
	if tables := ns.Run("nft", "list", "tables"); strings.Contains(tables, "natless") {
		t.Errorf("left behind: %s", tables)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(c.API.Socket), c.Device.Name+".sysctls.json")); err != nil {
		t.Fatal(err)
	}
	if ns.Do(func() { status = removeAll(&c, &out) }); status != 0 {
		t.Errorf("status %d: %s", status, &out)
	}
}
