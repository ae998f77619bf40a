package registry

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
)

// drainable are pools of each kind.
func drainable() []Pool {
	return []Pool{shared("198.51.100.0/31", 1024), {Name: "whole", IPv4: netip.MustParsePrefix("203.0.113.0/31"), Whole: true},
		{Name: "host", IPv4: netip.MustParsePrefix("192.0.2.1/32"), Uplink: true, PortsPerWorkload: 512},
		{Name: "more", IPv4: netip.MustParsePrefix("198.51.100.8/31"), PortsPerWorkload: 1024},
		{Name: "wholes", IPv4: netip.MustParsePrefix("203.0.113.8/31"), Whole: true}}
}

func (r *Registry) mustDrain(t *testing.T, pools ...string) {
	t.Helper()
	for _, p := range pools {
		if d, err := r.Drain(p); err != nil || d.Pool != p {
			t.Fatalf("%+v, %v", d, err)
		}
	}
}

// TestDrained: what a request gets, where something is drained.
func TestDrained(t *testing.T) {
	for _, c := range []struct {
		name    string
		drained []string
		ask     api.Request // besides the IPv6 address
		pool    string      // that it gets something of
		refused string      // else: what is drained
	}{
		{"nothing is drained", nil, api.Request{}, "default", ""},
		{"the host is", []string{""}, api.Request{}, "", "this host is drained"},
		{"the host and a pool are", []string{"", "whole"}, api.Request{Pool: "more"}, "", "this host is drained"},
		{"another pool is", []string{"whole"}, api.Request{}, "default", ""},
		{"the first choice is", []string{"default"}, api.Request{}, "more", ""},
		{"it insists on the pool", []string{"default"}, api.Request{Pool: "default"}, "", `pool "default" is drained`},
		{"it insists on an address", []string{"default"}, api.Request{Address: netip.MustParseAddr("198.51.100.1")}, "", `pool "default" is drained`},
		{"all of the kind are", []string{"default", "more"}, api.Request{}, "", `pool "default" is drained`},
		{"the next has not as many ports", []string{"default"}, api.Request{Ports: 40000}, "", ""},
		{"whole addresses go to whole ones only by name", []string{"whole"}, api.Request{Pool: "wholes"}, "wholes", ""},
		{"the host's address has none of its kind", []string{"host"}, api.Request{Pool: "host"}, "", `pool "host" is drained`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := start(t, drainable()...)
			r.mustDrain(t, c.drained...)
			c.ask.IPv6 = request(1).IPv6
			a, err := r.Put(t.Context(), key(1), c.ask)
			drained := (*DrainedError)(nil)
			switch {
			case c.pool != "":
				if err != nil || a.Pool != c.pool {
					t.Errorf("%v, %v, want %s", a, err, c.pool)
				}
			case c.refused != "":
				if !errors.As(err, &drained) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("%v, %v, want %s", a, err, c.refused)
				}
			case err == nil:
				t.Errorf("%v, want an error", a)
			}
		})
	}
}

// TestDrainKeeps: who has something keeps it, and may ask again for the same, also under
// another name or with other addresses; who gives it back has none of it again.
func TestDrainKeeps(t *testing.T) {
	r, clock := start(t, drainable()...)
	had := mustPut(t, r, 1, request(1))
	for _, pool := range []string{"", "default"} {
		r.mustDrain(t, pool)
		q := request(1)
		q.Name = "named"
		if a := mustPut(t, r, 1, q); a.words() != had.words() {
			t.Errorf("drained %q: %s became %s", pool, had.words(), a.words())
		}
		q.IPv6 = request(2).IPv6
		if a := mustPut(t, r, 1, q); a.words() != had.words() {
			t.Errorf("drained %q: with another address %s became %s", pool, had.words(), a.words())
		}
		q.Ports = 2048
		if a, err := r.Put(t.Context(), key(1), q); pool == "" && err == nil {
			t.Errorf("drained %q: with another wish it got %s", pool, a.words())
		}
		if err := r.Undrain(pool); err != nil {
			t.Fatal(err)
		}
		had = mustPut(t, r, 1, request(1))
	}
	r.mustDrain(t, "default")
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Second) // its set cools down, and would be its own again
	if a := mustPut(t, r, 1, request(1)); a.Pool != "more" {
		t.Errorf("it got %s of %s again", a.words(), a.Pool)
	}
}

// TestDrainLasts: over restarts, until it is ended; who is left is told; a pool that is
// configured no more can still be undrained; a copy of the registry does not bring it.
func TestDrainLasts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	open := func(path string, pools ...Pool) *Registry {
		t.Helper()
		r, err := Open(Options{Path: path, History: 10, Pools: pools})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	r := open(path, drainable()...)
	mustPut(t, r, 1, request(1))
	whole := request(2)
	whole.Pool = "whole"
	mustPut(t, r, 2, whole)
	r.mustDrain(t, "whole", "")
	since := r.Drains()[0].Since
	r.mustDrain(t, "") // twice is once
	r.Close()

	r = open(path, drainable()[2:]...)
	all := r.Drains()
	if len(all) != 2 || all[0].Pool != "" || all[0].Left != 2 || !all[0].Since.Equal(since) || all[1].Pool != "whole" || all[1].Left != 1 ||
		!all[1].Unknown || !r.HostDrained() {
		t.Errorf("%+v", all)
	}
	for _, p := range r.Pools() {
		if p.Drained.IsZero() {
			t.Errorf("pool %s is not said to be drained", p.Name)
		}
	}
	copied := filepath.Join(t.TempDir(), "r.db")
	c, err := r.Backup()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(copied)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(f, c); err != nil {
		t.Fatal(err)
	}
	f.Close()
	c.Close()
	if other := open(copied, drainable()...).Drains(); other != nil {
		t.Errorf("a copy has %+v", other)
	}
	for _, p := range []string{"whole", ""} {
		if err := r.Undrain(p); err != nil {
			t.Error(err)
		}
		if err, wrong := r.Undrain(p), (*FieldError)(nil); errors.Is(err, ErrNotFound) != (p == "") || errors.As(err, &wrong) != (p == "whole") {
			t.Errorf("twice: %v", err) // of a pool that there is not it is a mistake
		}
	}
	if _, err := os.Stat(drainedPath(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	r.Close()
	if r = open(path, drainable()...); r.Drains() != nil || r.HostDrained() {
		t.Errorf("%+v", r.Drains())
	}
}

// TestDrainFails: what cannot be written has not happened, and a file that is no such
// file is told of.
func TestDrainFails(t *testing.T) {
	r, _ := start(t, drainable()...)
	if _, err := r.Drain("nowhere"); err == nil || !strings.Contains(err.Error(), "there are default, whole, host, more, wholes") {
		t.Error(err)
	}
	if err := os.Mkdir(drainedPath(r.path)+".new", 0o700); err != nil { // in the way, also of root
		t.Fatal(err)
	}
	disk := (*WriteError)(nil)
	if _, err := r.Drain(""); !errors.As(err, &disk) || r.HostDrained() || r.Drains() != nil {
		t.Errorf("%v, %+v", err, r.Drains())
	}
	mustPut(t, r, 1, request(1))

	path := filepath.Join(t.TempDir(), "r.db")
	if err := os.WriteFile(drainedPath(path), []byte(`{"": "some day"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := Open(Options{Path: path}); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("%v, %v", r, err)
	}
}
