//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/translator/ports"
)

// Collectors are told of everybody every few minutes: what is said of each is right,
// and takes no memory for all at once.
func TestPortBlocks(t *testing.T) {
	r, err := registry.Open(registry.Options{Path: filepath.Join(t.TempDir(), "registry.db"), History: 100,
		Pools: []registry.Pool{{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/26"), PortsPerWorkload: 1024, Ports: ports.All()}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const n = 100
	want := map[uint64]*registry.Assignment{}
	for i := range n {
		name := fmt.Sprintf("pod-%d", i)
		a, err := r.Put(context.Background(), api.Key{ContainerID: name, Interface: "eth0"}, api.Request{Name: name, IPv6: []netip.Addr{netip.AddrFrom16([16]byte{0x20, 1, 14: 1, 15: byte(i)})}})
		if err != nil {
			t.Fatal(err)
		}
		want[a.Serial] = a
	}
	k := &keeper{Registry: r}
	for o := range k.portBlocks() {
		a := want[o.Serial]
		if a == nil || o.Name != a.Request.Name || o.IPv4 != a.Address || o.IPv6 != a.Request.IPv6[0] || o.First != a.Ports.Min() {
			t.Errorf("%+v, want %+v", o, a)
		}
		delete(want, o.Serial)
	}
	if len(want) > 0 {
		t.Errorf("nothing is said of %d", len(want))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range k.portBlocks() {
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 300 {
		t.Errorf("%d bytes for each", each)
	} else {
		t.Logf("%d bytes for each", each)
	}
}
