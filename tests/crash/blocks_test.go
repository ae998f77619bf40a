//go:build linux

package crash

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

const lentPool = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools: [{name: lent, from: fleet, ports_per_workload: 1024, cooldown: 0s}]
`

// borrower is a host that blocks are lent to, with a workload in one that always stays.
type borrower struct {
	*netns.NS
	t      *testing.T
	daemon *daemon.Daemon
	round  uint64
	has    api.Workload
	before []api.Block
}

// TestFailpointsOfBlocks kills natlessd at every step of taking other blocks: the next
// start has those before or those after, on disk and in the kernel, and the workload keeps
// what it has; and then the same set can be told again.
func TestFailpointsOfBlocks(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	b := &borrower{NS: netns.New(t, "crash"), t: t}
	server := netns.New(t, "server")
	netns.Veth(t, b.NS, "uplink", server, "eth0")
	b.IP("addr add 192.0.2.1/24 dev uplink")
	b.IP("route add default via 192.0.2.2")
	b.daemon = daemon.New(t, b.NS, lentPool)
	binary := killing(t)
	b.daemon.Start()
	b.tell(t.Context(), b.next())
	b.put()
	b.before = b.held()
	b.daemon.Stop()
	for _, point := range []string{"registry: blocks", "registry: blocks written", "guard", "translator", "fast path", "routes", "end"} {
		set := b.next()
		b.dies(binary, point, set)
		b.daemon.Start()
		b.look(point, set)
		if _, err := b.tell(t.Context(), set); err != nil {
			t.Errorf("%s: told again: %v", point, err)
		}
		b.before = b.held()
		b.daemon.Stop()
	}
}

// next is another set than the one before: one that stays, one of two that change places.
func (b *borrower) next() api.BlockSet {
	b.round++
	lent := func(n, lease uint64) api.Block {
		return api.Block{IPv4: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/31", 8+2*n)), Pool: "lent", Lease: lease}
	}
	return api.BlockSet{Epoch: b.round, Blocks: []api.Block{lent(0, 1), lent(1+b.round%2, b.round)}}
}

func (b *borrower) tell(ctx context.Context, s api.BlockSet) (api.Blocks, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return b.daemon.Client().PutBlocks(ctx, s)
}

func (b *borrower) put() {
	b.t.Helper()
	var err error
	b.has, err = b.daemon.Client().Put(b.t.Context(), keyOf(1), api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:6::2")},
		Address: netip.MustParseAddr("198.51.100.8")})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *borrower) held() (all []api.Block) {
	b.t.Helper()
	got, err := b.daemon.Client().Blocks(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, one := range got.Blocks {
		if one.Unconfirmed {
			b.t.Errorf("%v: the host was not booted", one)
		}
		all = append(all, one.Block)
	}
	return all
}

// dies runs a natlessd that is told a set, and kills itself at a point of that.
func (b *borrower) dies(binary, point string, set api.BlockSet) {
	b.t.Helper()
	cmd := b.Command(binary, "--config", b.daemon.Config, "--handover")
	cmd.Env = append(os.Environ(), failpoint+"="+point)
	if err := netns.Start(cmd); err != nil {
		b.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	load.Within(b.t, time.Minute, "a natlessd that is ready", func() bool {
		s, err := b.daemon.Client().Status(b.t.Context())
		return err == nil && s.Ready
	})
	if _, err := b.tell(b.t.Context(), set); !errors.Is(err, api.ErrUnavailable) {
		b.t.Errorf("%s: it was told: %v", point, err)
	}
	select {
	case <-exited:
	case <-time.After(time.Minute):
		b.t.Fatalf("it does not come by %s", point)
	}
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGKILL {
		b.t.Errorf("%s: it ended with %v", point, cmd.ProcessState)
	}
}

// look sees that what is there is what was, or what was told.
func (b *borrower) look(point string, set api.BlockSet) {
	b.t.Helper()
	held := b.held()
	undrained := slices.Clone(held)
	for i := range undrained { // what is to go is closed first
		undrained[i].Draining = false
	}
	if !slices.Equal(undrained, b.before) && !slices.Equal(held, set.Blocks) {
		b.t.Errorf("%s: %v is neither %v nor %v", point, held, b.before, set.Blocks)
	}
	routes := b.IP("route show table all proto 110")
	for _, any := range slices.Concat(b.before, set.Blocks) {
		is := slices.ContainsFunc(held, func(h api.Block) bool { return h.IPv4 == any.IPv4 })
		if strings.Contains(routes, any.IPv4.String()+" ") != is {
			b.t.Errorf("%s: %s is held: %v\n%s", point, any.IPv4, is, routes)
		}
	}
	w, err := b.daemon.Client().Get(b.t.Context(), keyOf(1))
	if err != nil || w.Serial != b.has.Serial || w.Address != b.has.Address || !w.Ports.Equal(b.has.Ports) {
		b.t.Errorf("%s: the workload has %+v, %v, and had %+v", point, w, err, b.has)
	}
}
