package registry

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
)

// TestInside: who asks for it has its IPv4 inside, who leaves it to the pool what the
// pool had when it came, who does not know of it never; and all of it is on disk.
func TestInside(t *testing.T) {
	pool := shared("198.51.100.0/32", 1024)
	o := Options{Path: filepath.Join(t.TempDir(), "r.db"), History: 10, Pools: []Pool{pool}}
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	put := func(n int, wish string) *Assignment {
		t.Helper()
		q := request(n)
		q.Inside, q.HostInterface = wish, "veth1"
		return mustPut(t, r, n, q)
	}
	inside := func(n int) bool {
		t.Helper()
		a, err := r.Get(key(n))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Inside(); got.IsValid() && got != a.Address || a.Mapping().Inside != got.IsValid() {
			t.Errorf("%d: %v inside of %v, %v", n, got, a.Address, a.Mapping())
		}
		return a.Inside().IsValid()
	}
	put(1, api.IPv4ByPool)
	put(2, api.IPv4Inside)
	put(3, api.IPv4Prefix)
	put(4, "")
	pool.Inside = true
	nothing := func(iter.Seq[mapping.Mapping], []Share) error { return nil }
	if err := reconfigure(r, []Pool{pool}, 10, nothing); err != nil {
		t.Fatal(err)
	}
	put(1, api.IPv4ByPool)
	put(5, api.IPv4ByPool)
	put(6, "")
	put(7, api.IPv4Prefix)
	for range 2 {
		for n, want := range map[int]bool{1: false, 2: true, 3: false, 4: false, 5: true, 6: false, 7: false} {
			if got := inside(n); got != want {
				t.Errorf("%d has it inside: %v, want %v", n, got, want)
			}
		}
		if got := r.Insiders(); got != (Insiders{All: 2}) {
			t.Errorf("%+v", got)
		}
		r.Close()
		o.Pools = []Pool{pool}
		if r, err = Open(o); err != nil {
			t.Fatal(err)
		}
		put(1, api.IPv4ByPool) // the same again
		put(5, api.IPv4ByPool)
	}
	defer r.Close()
	before := put(3, api.IPv4Prefix)
	after := put(3, api.IPv4Inside)
	if !after.Inside().IsValid() || after.words() != before.words() || after.Serial == before.Serial {
		t.Errorf("%+v became %+v: want the same share by another way", before, after)
	}
}

// TestInsideRefused: without the host's end of the link, and where whoever puts it
// into effect cannot; then nothing has changed.
func TestInsideRefused(t *testing.T) {
	r, _ := start(t, shared("198.51.100.0/32", 1024))
	q := request(1)
	q.Inside = api.IPv4Inside
	refused := new(InsideError)
	if _, err := r.Put(t.Context(), key(1), q); !errors.As(err, &refused) {
		t.Errorf("without a host's end: %v", err)
	}
	wrong := new(FieldError)
	q.Inside = "outside"
	if _, err := r.Put(t.Context(), key(1), q); !errors.As(err, &wrong) || wrong.Field != "inside" {
		t.Errorf("a word of no meaning: %v", err)
	}
	r.SetSink(func(c Change) error {
		if c.New.Mapping().Inside {
			return &InsideError{"no"}
		}
		return nil
	}, func(context.Context, Change) error { return nil })
	q.Inside, q.HostInterface = api.IPv4Prefix, "veth1"
	mustPut(t, r, 1, q)
	q.Inside = api.IPv4Inside
	if _, err := r.Put(t.Context(), key(1), q); !errors.As(err, &refused) {
		t.Errorf("where it cannot be: %v", err)
	}
	if a, err := r.Get(key(1)); err != nil || a.Inside().IsValid() {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestInsideMoves: when the uplink has another address, its workloads' share goes
// there, and what they have inside does not, until they are put anew.
func TestInsideMoves(t *testing.T) {
	host := Pool{Name: "host", IPv4: netip.MustParsePrefix("192.0.2.10/32"), Uplink: true, PortsPerWorkload: 512, Cooldown: time.Second}
	r, _ := start(t, host)
	q := request(1)
	q.Inside, q.HostInterface = api.IPv4Inside, "veth1"
	had := mustPut(t, r, 1, q)
	host.IPv4 = netip.MustParsePrefix("192.0.2.77/32")
	nothing := func(iter.Seq[mapping.Mapping], []Share) error { return nil }
	if err := reconfigure(r, []Pool{host}, 10, nothing); err != nil {
		t.Fatal(err)
	}
	a, err := r.Get(key(1))
	if err != nil || a.Inside() != had.Address || a.Address != host.IPv4.Addr() || r.Insiders() != (Insiders{1, 1}) {
		t.Errorf("%+v, %v, %+v", a, err, r.Insiders())
	}
	if a = mustPut(t, r, 1, q); a.Inside() != a.Address || r.Insiders() != (Insiders{1, 0}) {
		t.Errorf("put anew: %+v, %+v", a, r.Insiders())
	}
}
