//go:build linux

package flowlog

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/flows"
)

func records(n int) []flows.Record { return make([]flows.Record, n) }

func logTo(t *testing.T, path string, maxSize int64) *File {
	t.Helper()
	f := NewFile(path, maxSize, 2, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if f.file != nil {
			f.file.Close()
		}
	})
	return f
}

// put writes n records.
func put(t *testing.T, f *File, n int) {
	t.Helper()
	if got, err := f.write(records(n)); got != n || err != nil {
		t.Fatalf("%d of %d, %v", got, n, err)
	}
}

func lines(t *testing.T, path string) (n int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return 0
	}
	for _, line := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		if err := json.Unmarshal(line, new(api.Flow)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		n++
	}
	return n
}

// A file becomes another where it is full, is private, and the oldest goes.
func TestRotates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "flows.json")
	f := logTo(t, path, 3000)
	for range 4 {
		put(t, f, 10) // some 2500 bytes
	}
	for name, want := range map[string]int{path: 10, path + ".1": 10, path + ".2": 10} {
		if n := lines(t, name); n != want {
			t.Errorf("%s has %d lines, want %d", name, n, want)
		}
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o027 != 0 {
			t.Errorf("%s is %v", name, info.Mode())
		}
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("more are kept than should be")
	}
}

// A device is written to, and neither renamed nor cut.
func TestDeviceStays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "null")
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Skip(err)
	}
	f := logTo(t, path, 1)
	for range 3 {
		if n, err := f.write(records(2)); err != nil && !os.IsPermission(err) || n != 2 && err == nil {
			t.Fatal(n, err)
		}
		f.size = 1 << 30 // what was written
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("%v, %v", info, err)
	}
}

// Who rotates by copying cuts the file in our hands: what is written is at its
// beginning, and it is not taken for a full one.
func TestCutByAnother(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "flows.json")
	f := logTo(t, path, 3000)
	put(t, f, 10)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	put(t, f, 10)
	if _, err := os.Stat(path + ".1"); err == nil || lines(t, path) != 10 {
		t.Error("an empty file was taken for a full one")
	}
}

// What workloads are called stays one line of JSON.
func TestNames(t *testing.T) {
	t.Parallel()
	name := "a\"},\n{\"x\":\u2028\x1b[2J"
	a := &registry.Assignment{Request: api.Request{Name: name}}
	b, err := json.Marshal(Of(&flows.Record{Owner: a}))
	var back api.Flow
	if err != nil || bytes.ContainsAny(b, "\n\x1b") || json.Unmarshal(b, &back) != nil || back.Workload != name {
		t.Errorf("%q, %v", b, err)
	}
}
