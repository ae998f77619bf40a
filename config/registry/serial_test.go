package registry

import (
	"errors"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/natless/natless/translator/mapping"
)

// What changes an assignment gives it another serial, and nothing else does.
func TestSerials(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "r.db")
	c := &clock{time.Unix(1_700_000_000, 0)}
	host := Pool{Name: "default", IPv4: netip.MustParsePrefix("192.0.2.10/32"), Uplink: true, PortsPerWorkload: 512}
	start := func() *Registry {
		r, err := Open(Options{Path: path, History: 100, Pools: []Pool{host}, Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := start()
	defer func() { r.Close() }()
	highest := uint64(0)
	want := func(what string, a *Assignment, same bool, succeeds uint64) uint64 {
		t.Helper()
		if same != (a.Serial <= highest) || a.Succeeds != succeeds {
			t.Errorf("%s: serial %d after %d, succeeds %d, want %d", what, a.Serial, highest, a.Succeeds, succeeds)
		}
		if found, err := r.BySerial(a.Serial); err != nil || found.held != a.held {
			t.Errorf("%s: by serial %d: %v, %v", what, a.Serial, found, err)
		}
		highest = max(highest, a.Serial)
		return a.Serial
	}
	get := func() *Assignment {
		a, err := r.Get(key(1))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	q := request(1)
	first := want("new", mustPut(t, r, 1, q), false, 0)
	want("the same again", mustPut(t, r, 1, q), true, 0)
	q.Name = "ns/pod"
	if a := mustPut(t, r, 1, q); want("a name", a, true, 0) != first {
		t.Errorf("a name: serial %d", a.Serial)
	}
	q.Ports = 1024
	second := want("more ports", mustPut(t, r, 1, q), false, first)
	if _, err := r.BySerial(first); !errors.Is(err, ErrNotFound) {
		t.Errorf("one that ended: %v", err)
	}
	host.IPv4 = netip.MustParsePrefix("192.0.2.11/32")
	kept := func(iter.Seq[mapping.Mapping], []Share) error { return nil }
	if err := reconfigure(r, []Pool{host}, 100, kept); err != nil {
		t.Fatal(err)
	}
	third := want("the uplink's new address", get(), false, second)
	host.Name = "uplink"
	if err := reconfigure(r, []Pool{host}, 100, kept); err != nil {
		t.Fatal(err)
	}
	if a := get(); a.Pool != "uplink" || want("the pool's new name", a, true, second) != third {
		t.Errorf("the pool's new name: %+v", a)
	}
	r.Close()
	r = start()
	if want("a restart", get(), true, second) != third {
		t.Errorf("a restart: %+v", get())
	}
	for range 2 { // the last that was given is gone, and not given again, not after a restart either
		if err := r.Delete(t.Context(), key(1)); err != nil {
			t.Fatal(err)
		}
		r.Close()
		r = start()
		want("after the end", mustPut(t, r, 1, request(1)), false, 0)
	}
}

// A file that takes the place of another does not know which serials that one
// has given.
func TestSerialsOfAnotherFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "r.db"), filepath.Join(dir, "backup.db")
	c := &clock{time.Unix(1_700_000_000, 0)}
	r := open(t, path, c)
	kept := mustPut(t, r, 1, request(1)).Serial
	r.Close()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(backup, file, 0o600)
	highest := uint64(0)
	for n, f := range []struct {
		what  string
		f     func() error
		keeps bool
	}{
		{"restore", func() error { _, _, err := Restore(backup, path); return err }, true},
		{"salvage", func() error { _, _, err := Salvage(path); return err }, true},
		{"new", func() error { _, _, err := New(path); return err }, false},
		{"restore again", func() error { _, _, err := Restore(backup, path); return err }, true},
	} {
		r := open(t, path, c)
		for i := range 10 {
			highest = max(highest, mustPut(t, r, 10*n+10+i, request(10*n+10+i)).Serial)
		}
		r.Close()
		if err := f.f(); err != nil {
			t.Fatal(f.what, err)
		}
		r = open(t, path, c)
		if a, err := r.Get(key(1)); f.keeps != (err == nil && a.Serial == kept) {
			t.Errorf("%s: %+v, %v", f.what, a, err)
		}
		if a := mustPut(t, r, 100+n, request(100+n)); a.Serial <= highest {
			t.Errorf("%s: serial %d, and %d was given before", f.what, a.Serial, highest)
		}
		r.Close()
	}
}
