//go:build linux

package mistakes

import (
	"archive/tar"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/netns"
)

// bugtool gives the files of an archive of natless bugtool, by their names without the
// directory that they are in.
func (h *host) bugtool() map[string]string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "bug.tar.gz")
	if out, exit := h.run("natless", "bugtool", "--config", h.config, "--write", path); exit != 0 {
		h.t.Fatalf("natless bugtool: exit status %d\n%s", exit, out)
	}
	f, err := os.Open(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		h.t.Errorf("%v, %v: others may read it", info.Mode(), err)
	}
	zipped, err := gzip.NewReader(f)
	if err != nil {
		h.t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zipped); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			h.t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			h.t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		files[name] = string(content)
	}
}

// TestBugtool: a report says what is so with natlessd and without it, and gives away
// neither what looks like a secret nor the registry.
func TestBugtool(t *testing.T) {
	netns.Require(t, netns.Root, "nft")
	t.Parallel()
	const secret = "hunter2-correct-horse"
	h := newHost(t, mistake{config: "# password: " + secret + least})
	h.ns.IP("-6 route add 2001:db8:6::2 dev up0")
	ended, stop := h.start(false)
	if ended != running {
		t.Fatalf("natlessd ended with %d\n%s", ended, &h.out)
	}
	client := api.NewClient(filepath.Join(h.dir, "natless.sock"))
	key := api.Key{ContainerID: "0123456789abcdef", Interface: "eth0"}
	if _, err := client.Put(t.Context(), key, api.Request{Name: "shop/web", IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::2")}}); err != nil {
		t.Fatal(err)
	}
	with := h.bugtool()
	stop()
	without := h.bugtool()

	holds := func(files map[string]string, name, want string) {
		t.Helper()
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q:\n%s", name, want, files[name])
		}
	}
	holds(with, "status.json", `"ready": true`)
	holds(with, "workloads.txt", "shop/web")
	holds(with, "doctor.txt", "way back")
	holds(with, "natless.yaml", "uplink: up0")
	holds(with, "host/links.txt", "natless0")
	holds(with, "LIST.txt", "metrics.listen is not configured")
	holds(without, "status.json", "not there: natlessd does not answer")
	holds(without, "workloads.txt", "not there: natlessd does not answer")
	holds(without, "registry.json", `"assignments": 1`)
	holds(without, "natless.yaml", "uplink: up0")
	holds(without, "doctor.txt", "fail")
	holds(without, "host/links.txt", "up0")

	secretKey, err := config.Key(filepath.Join(h.dir, "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	registry, err := os.ReadFile(filepath.Join(h.dir, "registry.db"))
	if err != nil {
		t.Fatal(err)
	}
	for which, files := range map[string]map[string]string{"with natlessd": with, "without": without} {
		if len(files) < 20 {
			t.Errorf("%s: %d files only", which, len(files))
		}
		for name, content := range files {
			if strings.Contains(content, secret) {
				t.Errorf("%s: %s has a secret", which, name)
			}
			for what, bytes := range map[string]string{"the registry": string(registry[:64]), "the key": string(secretKey[:]),
				"the key in hex": hex.EncodeToString(secretKey[:])} {
				if strings.Contains(content, bytes) {
					t.Errorf("%s: %s has %s", which, name, what)
				}
			}
		}
	}
}
