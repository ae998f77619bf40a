//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/translator/ports"
)

// Whose a flow is, is told by address and port at its time, also of who is gone; and
// where a packet has no port, by the slot.
func TestOwners(t *testing.T) {
	t.Parallel()
	r, err := registry.Open(registry.Options{Path: filepath.Join(t.TempDir(), "registry.db"), History: 100,
		Pools: []registry.Pool{{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.8/32"), PortsPerWorkload: 1024, Ports: ports.All()}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	slots := map[uint64]uint32{}
	put := func(name, v6 string) *registry.Assignment {
		t.Helper()
		a, err := r.Put(context.Background(), api.Key{ContainerID: name, Interface: "eth0"}, api.Request{Name: name, IPv6: []netip.Addr{netip.MustParseAddr(v6)}})
		if err != nil {
			t.Fatal(err)
		}
		slots[a.Serial] = uint32(len(slots) + 1)
		return a
	}
	one, two := put("one", "2001:db8::1"), put("two", "2001:db8::2")
	accounts := accounting.New(10, func(yield func(accounting.Place) bool) {
		for serial, slot := range slots {
			if !yield(accounting.Place{Serial: serial, Slot: slot}) {
				return
			}
		}
	}, func(uint32) accounting.Usage { return accounting.Usage{} })
	o := &owners{keeper: &keeper{Registry: r, log: slog.New(slog.DiscardHandler)}, accounts: accounts}
	port := func(a *registry.Assignment) netip.AddrPort { return netip.AddrPortFrom(a.Address, a.Ports.Min()) }
	none := netip.AddrPortFrom(one.Address, 0)
	check := func(slot uint32, local netip.AddrPort, at time.Time, want *registry.Assignment) {
		t.Helper()
		got, _ := o.of(slot, local, at).(*registry.Assignment)
		if (got == nil) != (want == nil) || got != nil && got.Serial != want.Serial {
			t.Errorf("slot %d, %v: %v, want %v", slot, local, got, want)
		}
	}
	now := time.Now()
	check(1, port(one), now, one)
	check(1, none, now, one)
	check(2, none, now, two)
	check(2, netip.AddrPort{}, now, two) // what was lost of it
	check(1, port(two), now, two)        // of another table's slots
	check(0, port(one), now, one)
	check(0, none, now, nil)
	check(9, port(one), now, one)
	check(8, netip.MustParseAddrPort("203.0.113.1:80"), now, nil) // of the configuration
	if err := r.Delete(context.Background(), one.Key); err != nil {
		t.Fatal(err)
	}
	accounts.Change(accounting.Change{Old: one.Serial})
	o.since = time.Time{}
	check(1, none, now, one)
	check(1, port(one), now, one)
	check(1, netip.AddrPort{}, now, one)
	check(2, port(two), time.Now(), two)
}
