//go:build linux

package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/natless/natless/config"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// TestStartKeepsAll: a daemon that starts has each workload of the registry in its table,
// with the ports that it had, and loses none.
func TestStartKeepsAll(t *testing.T) {
	t.Parallel()
	c := config.Default()
	c.Registry.Path = filepath.Join(t.TempDir(), "registry.db")
	pool := []registry.Pool{{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/28"), Ports: ports.MustParse("1024-65535"), PortsPerWorkload: 1024}}
	r, err := registry.Open(registry.Options{Path: c.Registry.Path, Pools: pool})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8:6::%x", i+1))
		if _, err := r.Put(t.Context(), api.Key{ContainerID: fmt.Sprint("c", i), Interface: "eth0"}, api.Request{IPv6: []netip.Addr{a}}); err != nil {
			t.Fatal(err)
		}
	}
	had := r.All()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	k, table, err := openKeeper(&c, pool, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Len() != len(had) || table.Len() != len(had) {
		t.Errorf("%d workloads, %d of them in the table, want %d", k.Len(), table.Len(), len(had))
	}
	for _, a := range had {
		e := table.Get(netip.PrefixFrom(a.Request.IPv6[0], 128))
		if e == nil || !e.Mapping().Ports.Equal(a.Ports) || e.Mapping().IPv4.Addr() != a.Address {
			t.Errorf("%s: %v, want %v of %v", a.Key, e, a.Ports, a.Address)
		}
	}
}
