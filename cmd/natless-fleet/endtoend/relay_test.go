//go:build linux

package endtoend

import (
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/natless/natless/cmd/natless-fleet/etcd"
	"github.com/natless/natless/cmd/natless-fleet/fleet"
	"github.com/natless/natless/cmd/natless-fleet/kube"
	"github.com/natless/natless/cmd/natless-fleet/kube/apiserver"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

var many = flag.Int("blocks", 2048, "that a relay leads to hosts in the tests with etcd")

const relayConfiguration = `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
relay: {ipv4: [10.64.0.0/16, 203.0.113.0/24], stale_after: 5s}
`

func blockOf(n int) fleet.Block {
	ipv4 := fmt.Sprintf("10.64.%d.%d/32", n/256, n%256)
	return fleet.Block{Name: fleet.NameOf(ipv4), Spec: fleet.BlockSpec{Pool: "lent", IPv4: ipv4, IPv6: fmt.Sprintf("2001:db8:aa::%x/128", n), Host: "elsewhere",
		Lease: 1, State: fleet.Lent}}
}

// lend makes blocks that hosts elsewhere have.
func lend(t *testing.T, s fleet.Store, n int) {
	t.Helper()
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := w; i < n; i += 16 {
				if _, err := fleet.Create(t.Context(), s, fleet.Blocks, blockOf(i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d blocks are made", n)
}

// relay is a natlessd that is a relay, with its agent.
type relay struct {
	*program
	d     *daemon.Daemon
	s     fleet.Store
	agent *exec.Cmd
}

func newRelay(t *testing.T, f *program, s fleet.Store) *relay {
	t.Helper()
	ns, link := netns.New(t, "relay"), netns.New(t, "link")
	netns.Veth(t, ns, "uplink", link, "eth0")
	ns.IP("addr add 192.0.2.9/24 dev uplink")
	ns.IP("route add default via 192.0.2.254")
	return &relay{program: f, d: daemon.New(t, ns, relayConfiguration), s: s}
}

func (r *relay) begin() {
	r.agent = r.runs("relay", "--name", "east", "--socket", r.d.Socket, "--machine-id", r.d.Config)
}

func (r *relay) is() api.Relay {
	is, err := r.d.Client().Relay(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return is
}

// stands waits for a state, with so many rules.
func (r *relay) stands(what, state string, rules int) {
	r.t.Helper()
	var is api.Relay
	defer func() {
		if r.t.Failed() {
			r.t.Logf("%s: it is %s (%s) with %d rules", what, is.State, is.Why, is.Count)
		}
	}()
	began := time.Now()
	within(r.t, what, func() bool { is = r.is(); return is.State == state && is.Count == rules })
	r.t.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
}

func (r *relay) acknowledged(b fleet.Block) bool {
	all, _, err := fleet.List[fleet.RelaySpec, fleet.RelayStatus](r.t.Context(), r.s, fleet.Relays)
	return err == nil && len(all) == 1 && all[0].Status.Renewed != "" && len(fleet.Unacknowledged(b, all)) == 0
}

// change writes a block, or deletes it, and gives it as it is now.
func (r *relay) change(n int, state fleet.BlockState) fleet.Block {
	r.t.Helper()
	b, err := fleet.Get[fleet.BlockSpec, fleet.BlockStatus](r.t.Context(), r.s, fleet.Blocks, blockOf(n).Name)
	if err == nil && state == "" {
		err = fleet.Delete(r.t.Context(), r.s, fleet.Blocks, b)
	} else if b.Spec.State = state; err == nil {
		b, err = fleet.Update(r.t.Context(), r.s, fleet.Blocks, b)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// follows is what a relay does for its fleet, by real programs: it is told all blocks when it
// begins and each change after that, it acknowledges, an agent that is killed leaves no trace,
// and what is missing is not believed without a word.
func (r *relay) follows(blocks int) {
	t := r.t
	daemon.Build(t)
	began := time.Now()
	r.d.Start()
	ready := time.Now()
	r.begin()
	r.stands("all blocks", api.RelayServes, blocks)
	t.Logf("a relay cold with %d blocks serves after %v (goal: 3s): %v for natlessd, %v for its agent", blocks, time.Since(began).Round(time.Millisecond),
		ready.Sub(began).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
	began = time.Now()
	b := r.change(0, fleet.Ended)
	within(t, "a fence that is acknowledged", func() bool { return r.acknowledged(b) })
	t.Logf("a fence is acknowledged after %v", time.Since(began))
	r.stands("a block that is fenced", api.RelayServes, blocks-1)
	r.agent.Process.Kill()
	r.change(0, "")
	b = r.change(1, fleet.Ended)
	r.begin()
	within(t, "a fence by the next agent", func() bool { return r.acknowledged(b) })
	r.stands("a block that is fenced, told by the next agent", api.RelayServes, blocks-2)
	r.d.Kill()
	r.d.Start()
	r.stands("a natlessd that was killed", api.RelayServes, blocks-2)
	gone := min(500, blocks/2)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for n := 2 + w; n < 2+gone; n += 8 {
				r.s.Delete(t.Context(), must(r.s.Get(t.Context(), fleet.Blocks, blockOf(n).Name)))
			}
		})
	}
	all.Wait()
	within(t, "what to do about it", func() bool { return strings.Contains(r.says("status"), "natless-fleet follow east") })
	if is := r.is(); is.Count != blocks-2 || is.State != api.RelayServes {
		t.Errorf("%+v: what is missing is believed", is)
	}
	within(t, "an operator's word", func() bool { r.says("follow", "east"); return r.is().Count == blocks-2-gone })
	r.stands("what the word is about", api.RelayServes, blocks-2-gone)
}

func must(o fleet.Object, err error) fleet.Object { return o }

// TestRelayAgent is that with etcd, which besides is away for a while: the relay goes on, and
// says that its view is stale.
func TestRelayAgent(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	server := newStore(t)
	endpoint := "http://" + server.server.Clients[0].Addr().String()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := etcd.New(client, "/natless")
	lend(t, s, *many)
	r := newRelay(t, newFleet(t, "--etcd", endpoint), s)
	r.follows(*many)
	rules := r.is().Count
	server.server.Close()
	r.stands("a store that is away", api.RelayDrains, rules)
	server.start()
	r.stands("a store that is back", api.RelayServes, rules)
	b := r.change(*many-1, fleet.Ended)
	within(t, "a fence after that", func() bool { return r.acknowledged(b) })
	r.stands("the end", api.RelayServes, rules-1)
}

// TestRelayAgentOfKubernetes is that with a real kube-apiserver. Whether rights are enough is
// package kube's.
func TestRelayAgentOfKubernetes(t *testing.T) {
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	c := apiserver.Serve(t)
	s, err := kube.New(c, "default")
	if err != nil {
		t.Fatal(err)
	}
	blocks := *many / 2
	lend(t, s, blocks)
	r := newRelay(t, newFleet(t, "--kubeconfig", apiserver.Kubeconfig(t, c, "admin"), "--namespace", "default"), s)
	r.follows(blocks)
}
