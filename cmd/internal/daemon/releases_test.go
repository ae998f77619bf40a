//go:build linux

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
)

// TestReleases: what was to be deleted while no daemon was there is written to the
// disk together, not each in its turn. The first waits in the sink, and whoever
// else is asked for comes to wait behind it.
func TestReleases(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	r, err := registry.Open(registry.Options{Path: filepath.Join(dir, "registry.db"), Log: log,
		Pools: []registry.Pool{{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/24"), PortsPerWorkload: 1024}},
		Sink:  func(context.Context, registry.Change) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := &keeper{Registry: r, socket: filepath.Join(dir, "socket"), log: log}
	const n = 50
	var puts sync.WaitGroup
	for i := range n {
		key := api.Key{ContainerID: fmt.Sprint("c", i), Interface: "eth0"}
		puts.Go(func() {
			if _, err := r.Put(t.Context(), key, api.Request{IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1))}}); err != nil {
				t.Error(err)
			}
		})
		if err := api.RecordRelease(w.socket, key, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	puts.Wait()
	sunk, left := 0, n
	r.SetSink(func(registry.Change) error { return nil }, func(context.Context, registry.Change) error {
		switch sunk++; sunk {
		case 1:
			time.Sleep(200 * time.Millisecond) // the others come to wait
		case n / 2: // what was written with this one is gone, too
			left = r.Len()
		}
		return nil
	})
	w.releases(t.Context())
	if more, err := api.Releases(w.socket); err != nil || len(more) > 0 || r.Len() > 0 {
		t.Errorf("%d releases and %d assignments are left, %v", len(more), r.Len(), err)
	}
	if left > n/4 {
		t.Errorf("%d of %d are not written when half are done", left, n)
	}
}
