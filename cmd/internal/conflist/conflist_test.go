package conflist

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const before = `{"cniVersion": "1.0.0", "name": "pods", "disableCheck": true,
 "plugins": [{"type": "bridge", "ipam": {"type": "host-local", "x": [1.50, 2]}}, {"type": "portmap"}]}`

const after = `{
  "cniVersion": "1.0.0",
  "disableCheck": true,
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "ipam": {
        "type": "host-local",
        "x": [
          1.50,
          2
        ]
      }
    },
    {
      "type": "portmap"
    },
    {
      "capabilities": {
        "natless": true
      },
      "pool": "default",
      "type": "natless-cni"
    }
  ]
}
`

// unchained is after without natless-cni.
var unchained = strings.Replace(after, `,
    {
      "capabilities": {
        "natless": true
      },
      "pool": "default",
      "type": "natless-cni"
    }`, "", 1)

func put(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAddAndRemove(t *testing.T) {
	path := put(t, "10-pods.conflist", before)
	for i, want := range []bool{true, false} {
		if changed, err := Add(path, map[string]any{"pool": "default"}); err != nil || changed != want {
			t.Fatalf("time %d: %t, %v", i, changed, err)
		}
		if diff := cmp.Diff(after, text(t, path)); diff != "" {
			t.Fatalf("time %d:\n%s", i, diff)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if changed, err := Add(path, nil); err != nil || !changed || strings.Contains(text(t, path), "default") || strings.Count(text(t, path), Plugin) != 1 {
		t.Errorf("other keys: %t %v\n%s", changed, err, text(t, path))
	}
	for i, want := range []bool{true, false} {
		if changed, err := Remove(path); err != nil || changed != want || strings.Contains(text(t, path), Plugin) || !strings.Contains(text(t, path), "portmap") {
			t.Errorf("time %d: %t %v\n%s", i, changed, err, text(t, path))
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".natless-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestNonsense(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no JSON":            {"plugins: []", "is not a JSON object"},
		"no plugins":         {`{"name": "x"}`, "plugins: is not a list"},
		"plugins no list":    {`{"plugins": {"type": "bridge"}}`, "plugins: is not a list"},
		"nobody before":      {`{"plugins": []}`, "could stand behind"},
		"nobody but oneself": {`{"plugins": [{"type": "natless-cni"}]}`, "could stand behind"},
	} {
		path := put(t, "x.conflist", c.text)
		if _, err := Add(path, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if text(t, path) != c.text {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestFind(t *testing.T) {
	dir := filepath.Dir(put(t, "00-old.conf", "{}"))
	if _, err := Find(dir); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	for _, name := range []string{"20-b.conflist", "10-a.conflist", ".natless-1.conflist.tmp"} {
		os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600)
	}
	if got, err := Find(dir); err != nil || filepath.Base(got) != "10-a.conflist" {
		t.Errorf("%s %v", got, err)
	}
	if _, err := Find(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestCopy(t *testing.T) {
	from := put(t, "program", "new")
	to := put(t, "installed", "old")
	if err := Copy(from, to); err != nil || text(t, to) != "new" {
		t.Errorf("%v %q", err, text(t, to))
	}
	if info, _ := os.Stat(to); info.Mode() != 0o755 {
		t.Error(info.Mode())
	}
	if err := Copy(filepath.Join(t.TempDir(), "none"), to); !errors.Is(err, fs.ErrNotExist) || text(t, to) != "new" {
		t.Error(err)
	}
}
