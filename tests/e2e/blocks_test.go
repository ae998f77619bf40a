//go:build linux

package e2e

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const lentPool = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: lent, from: fleet, ports_per_workload: 1024, cooldown: 0s, low_watermark: 4, high_watermark: 100}
`

func blockOf(prefix string, lease uint64) api.Block {
	return api.Block{IPv4: netip.MustParsePrefix(prefix), Pool: "lent", Lease: lease}
}

// TestBlocks: a pool of the fleet's gives what it was lent, through kills and with nobody
// who says anything; what is in use is not given up, and what was given up never comes
// back by the same loan.
func TestBlocks(t *testing.T) {
	daemon.OnePath(t, "what it proves is of registry and routes")
	netns.Require(t, netns.Root, "curl")
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, lentPool)
	client, ctx := n.daemon.Client(), t.Context()
	put := func(epoch uint64, blocks ...api.Block) (api.Blocks, error) {
		return client.PutBlocks(ctx, api.BlockSet{Epoch: epoch, Blocks: blocks})
	}
	routed := func(prefix string) bool {
		return strings.Contains(n.host.IP("route show table all proto 110"), strings.TrimSuffix(prefix, "/32")+" ")
	}
	request := api.Request{IPv6: []netip.Addr{netip.MustParseAddr(workload1)}, HostInterface: "w1", Name: "ns/one"}
	_, err := client.Put(ctx, keyOf("one"), request)
	if !errors.Is(err, api.ErrExhausted) || !strings.Contains(err.Error(), "no block") {
		t.Fatalf("of no block: %v", err)
	}
	if got, err := client.Blocks(ctx); err != nil || len(got.Pools) != 1 || got.Pools[0].Wanted != 4 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := n.natless("status"); !strings.Contains(got, "no block for pool lent") {
		t.Errorf("status:\n%s", got)
	}
	if got, err := put(7, blockOf("198.51.100.8/32", 7)); err != nil || got.Pools[0].Headroom != 63 || got.Pools[0].Wanted != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	port := serveHTTP(t, n.server)
	w := n.put("one", workload1, n.w1, api.Request{Name: "ns/one"})
	served := func(when string) {
		t.Helper()
		if peer := curl(t, n.w1, serverv6, port, 1000); peer != w.Address.String() {
			t.Errorf("%s: the server saw %s, want %s", when, peer, w.Address)
		}
	}
	served("at first")
	for _, c := range []struct {
		name   string
		set    api.BlockSet
		want   error
		detail string
	}{
		{"without a block in use", api.BlockSet{Epoch: 8, Blocks: []api.Block{}}, api.ErrInUse, "1 workloads have something of it (ns/one)"},
		{"of an older view", api.BlockSet{Epoch: 6, Blocks: []api.Block{blockOf("198.51.100.8/32", 7)}}, api.ErrStale, "6 is older than 7"},
		{"of another pool", api.BlockSet{Epoch: 8, Blocks: []api.Block{{IPv4: netip.MustParsePrefix("198.51.100.9/32"), Pool: "x", Lease: 1}}}, api.ErrInvalid, `no pool "x"`},
		{"with the translator's own address", api.BlockSet{Epoch: 8, Blocks: []api.Block{blockOf("198.51.100.8/32", 7), blockOf("198.51.100.1/32", 1)}}, api.ErrInvalid, "addresses.ipv4"},
	} {
		if _, err := client.PutBlocks(ctx, c.set); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.detail) {
			t.Errorf("a set %s: %v", c.name, err)
		}
	}
	more := []api.Block{blockOf("198.51.100.8/32", 7), blockOf("198.51.100.12/31", 8)}
	more[0].Draining = true
	if got, err := put(8, more...); err != nil || got.Pools[0].Headroom != 126 || !routed("198.51.100.12/31") || !routed("198.51.100.8/32") {
		t.Fatalf("%+v, %v", got, err)
	}
	served("while its block drains")
	n.daemon.Kill()
	n.daemon.Start()
	client = n.daemon.Client()
	served("after a kill, with nobody who says anything")
	n.afterBoot(t)
	client = n.daemon.Client()
	if got, _ := client.Blocks(ctx); len(got.Blocks) != 2 || !got.Blocks[0].Unconfirmed || got.Pools[0].Headroom != 0 || routed("198.51.100.12/31") {
		t.Errorf("after a boot: %+v", got)
	}
	if _, err := put(8, more...); err != nil || !routed("198.51.100.12/31") {
		t.Errorf("confirmed: %v", err)
	}
	if got := n.natless("workloads", "delete", "one/eth0"); !strings.Contains(got, "gave back") {
		t.Fatal(got)
	}
	within(t, 20*time.Second, "the block can be given up", func() bool { _, err := put(8, more[1]); return err == nil })
	if routed("198.51.100.8/32") {
		t.Error("what was given up leads here")
	}
	if _, err := put(9, more...); !errors.Is(err, api.ErrStale) {
		t.Errorf("a loan that ended begins again: %v", err)
	}
	if got, err := put(9, more[1], blockOf("198.51.100.8/32", 9)); err != nil || len(got.Blocks) != 2 {
		t.Errorf("lent again: %+v, %v", got, err)
	}
	if got := n.natless("blocks"); !strings.Contains(got, "198.51.100.12/31  lent  8") {
		t.Errorf("natless blocks:\n%s", got)
	}
	n.revoked(t, client)
}

// revoked: an operator's word takes what workloads have.
func (n *topology) revoked(t *testing.T, client *api.Client) {
	w := n.put("two", workload1, n.w1, api.Request{Address: netip.MustParseAddr("198.51.100.8")})
	set := api.BlockSet{Epoch: 10, Blocks: []api.Block{blockOf("198.51.100.12/31", 8)}, Revoked: []netip.Prefix{netip.MustParsePrefix("198.51.100.8/32")}}
	if got, err := client.PutBlocks(t.Context(), set); err != nil || len(got.Blocks) != 1 || got.Returned[0].Lease != 9 {
		t.Errorf("revoked: %+v, %v", got, err)
	}
	if _, err := client.Get(t.Context(), w.Key); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("it still has what another host will be lent: %v", err)
	}
}

// afterBoot has the daemon find its blocks as after a boot of the host.
func (n *topology) afterBoot(t *testing.T) {
	t.Helper()
	n.daemon.Stop()
	n.change(t, func(r *registry.Registry) error {
		s := r.Blocks()
		s.Boot = "another"
		return r.SetBlocks(s)
	})
	n.daemon.Start()
}

// change changes the registry of a daemon that does not run.
func (n *topology) change(t *testing.T, how func(*registry.Registry) error) {
	t.Helper()
	r, err := registry.Open(registry.Options{Path: filepath.Join(n.daemon.Dir, "registry.db")})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(how(r), r.Close()); err != nil {
		t.Fatal(err)
	}
}
