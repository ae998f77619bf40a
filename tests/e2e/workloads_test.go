//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/netns"
)

const poolsConfig = `
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
pools:
  - {name: default, ipv4: 198.51.100.8/32, ports_per_workload: 1024, reserved_ports: 0-1023, cooldown: 60s}
  - {name: dedicated, ipv4: 198.51.100.16/30, whole_address: true}
`

func newPools(t *testing.T) *topology {
	t.Helper()
	n := newNamespaces(t)
	n.daemon = daemon.Start(t, n.host, poolsConfig)
	return n
}

func keyOf(container string) api.Key { return api.Key{ContainerID: container, Interface: "eth0"} }

// put gives the workload in ns a share and makes its kernel keep to it, as the
// CNI plugin does.
func (n *topology) put(container, ipv6 string, ns *netns.NS, q api.Request) api.Workload {
	n.t.Helper()
	q.IPv6, q.Netns = []netip.Addr{netip.MustParseAddr(ipv6)}, ns.Path
	w, err := n.daemon.Client().Put(n.t.Context(), keyOf(container), q)
	if err != nil {
		n.t.Fatal(err)
	}
	if run := w.Run(); !w.Ports.IsZero() {
		ns.Run("sysctl", "-qw", fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", run.First, run.Last))
	}
	return w
}

// natless runs the command line against the daemon.
func (n *topology) natless(args ...string) string {
	n.t.Helper()
	out, err := exec.Command(filepath.Join(daemon.Build(n.t), "natless"), append(args, "--socket", n.daemon.Socket)...).CombinedOutput()
	if err != nil {
		return strings.TrimSpace(string(out)) + " (" + err.Error() + ")"
	}
	return string(out)
}

// TestWorkloads: two workloads share an IPv4 address and are served through it,
// also across a kill; the command line says whose is whose.
func TestWorkloads(t *testing.T) {
	netns.Require(t, netns.Root, "curl")
	n := newPools(t)
	one := n.put("one", workload1, n.w1, api.Request{Name: "ns/one"})
	two := n.put("two", workload2, n.w2, api.Request{Name: "ns/two", ExtraPorts: []uint16{443}})
	if one.Address != two.Address || one.Prefix != netip.MustParsePrefix("2001:db8:64::/96") {
		t.Fatalf("%+v\n%+v", one, two)
	}
	port := serveHTTP(t, n.server)
	both := func() {
		t.Helper()
		for _, ns := range []*netns.NS{n.w1, n.w2} {
			if peer := curl(t, ns, serverv6, port, 1<<20); peer != one.Address.String() {
				t.Errorf("the server saw %s, want %s", peer, one.Address)
			}
		}
	}
	both()
	for ask, want := range map[string]string{
		fmt.Sprintf("whois %s:%d", one.Address, one.Ports.Min()): "ns/one",
		fmt.Sprintf("whois %s:443", one.Address):                 "ns/two",
		fmt.Sprintf("whois %s:444", one.Address):                 "nobody has",
		"workloads":                                              "ns/two",
		"pools":                                                  "2 workloads",
		"status":                                                 "2 mappings, 2 of them workloads",
		fmt.Sprintf("explain ipv6 src %s dst %s tcp sport %d dport 80", workload1, serverv6, one.Ports.Min()): "src " + one.Address.String(),
		fmt.Sprintf("explain ipv6 src %s dst %s tcp sport %d dport 80", workload1, serverv6, two.Run().First): "port-outside-set",
	} {
		if got := n.natless(strings.Fields(ask)...); !strings.Contains(got, want) {
			t.Errorf("natless %s: want %q in\n%s", ask, want, got)
		}
	}
	n.daemon.Kill()
	if got := n.natless("status"); !strings.Contains(got, "nobody listens there any more") {
		t.Errorf("natless status without a daemon: %s", got)
	}
	n.daemon.Start()
	if again, err := n.daemon.Client().Get(t.Context(), one.Key); err != nil || again.Address != one.Address || !again.Ports.Equal(one.Ports) {
		t.Errorf("after a kill: %+v, %v, had %+v", again, err, one)
	}
	both()
	if got := n.natless("workloads", "delete", "ns/one"); !strings.Contains(got, "gave back") {
		t.Error(got)
	}
	if out, err := n.w1.Command("curl", "-sS", "--max-time", "3", fmt.Sprintf("http://[%s]:%s/1", serverv6, port)).CombinedOutput(); err == nil {
		t.Errorf("a workload without an assignment got through: %s", out)
	}
}

// TestWorkloadsWithoutDaemon: what ended while no daemon was there is free when
// one is back, and nothing else.
func TestWorkloadsWithoutDaemon(t *testing.T) {
	t.Parallel()
	daemon.OnePath(t, "it is about the registry")
	netns.Require(t, netns.Root)
	n := newPools(t)
	n.put("stays", workload1, n.w1, api.Request{})
	n.put("released", workload2, n.w2, api.Request{})
	n.put("gone", "2001:db8:9::1", n.w2, api.Request{})
	n.daemon.Stop()
	if err := api.RecordRelease(n.daemon.Socket, keyOf("released"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := api.RecordRelease(n.daemon.Socket, keyOf("stays"), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err) // of an earlier life of that workload
	}
	n.daemon.Start()
	gone := netns.New(t, "gone")
	client := n.daemon.Client()
	if _, err := client.Put(t.Context(), keyOf("gone"), api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:9::1")}, Netns: gone.Path + "-was"}); err != nil {
		t.Fatal(err)
	}
	// Its address comes back with another container: the daemon must find out
	// by itself that the first is gone.
	if _, err := client.Put(t.Context(), keyOf("next"), api.Request{IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:9::1")}, Netns: gone.Path}); err != nil {
		t.Error(err)
	}
	var conflict *api.Problem
	if _, err := client.Put(t.Context(), keyOf("thief"), api.Request{IPv6: []netip.Addr{netip.MustParseAddr(workload1)}}); !errors.As(err, &conflict) || conflict.Code != api.CodeConflict {
		t.Errorf("the address of one that lives: %v", err)
	}
	all, err := client.List(t.Context(), api.Filter{})
	var ids []string
	for _, w := range all {
		ids = append(ids, w.ContainerID)
	}
	if err != nil || !slices.Equal(ids, []string{"next", "stays"}) {
		t.Errorf("left: %v, %v", ids, err)
	}
	if left, err := api.Releases(n.daemon.Socket); err != nil || len(left) > 0 {
		t.Errorf("recorded releases left: %v, %v", left, err)
	}
}

// TestReloadKeepsWorkloads: a reload, by signal or API, changes pools and
// mappings under workloads that stay; a wrong one changes nothing.
func TestReloadKeepsWorkloads(t *testing.T) {
	netns.Require(t, netns.Root, "curl")
	n := newPools(t)
	port := serveHTTP(t, n.server)
	one := n.put("one", workload1, n.w1, api.Request{Name: "ns/one"})
	n.daemon.Write(poolsConfig + "mappings:\n  - {ipv6: \"2001:db8:7::2\", ipv4: 198.51.100.3}\n")
	if got := n.natless("reload"); got != "the configuration was reloaded\n" {
		t.Fatal(got)
	}
	if peer := curl(t, n.w1, serverv6, port, 1000); peer != one.Address.String() {
		t.Errorf("the server saw %s", peer)
	}
	if peer := curl(t, n.w2, serverv6, port, 1000); peer != workload2v4 {
		t.Errorf("the server saw %s", peer)
	}
	n.daemon.Write(poolsConfig + "mappings:\n  - {ipv6: \"2001:db8:6::2\", ipv4: 198.51.100.3}\n")
	if got := n.natless("reload"); !strings.Contains(got, "a workload has it") {
		t.Error(got)
	}
	if s, err := n.daemon.Client().Status(t.Context()); err != nil || s.Mappings != 2 || s.Reload.Error == "" {
		t.Errorf("after a refused reload: %+v, %v", s, err)
	}
	n.daemon.Write(strings.Replace(poolsConfig, "198.51.100.8/32", "198.51.100.9/32", 1))
	n.daemon.Signal(syscall.SIGHUP)
	within(t, 5*time.Second, "the pool's new address", func() bool {
		p, err := n.daemon.Client().Pools(t.Context())
		return err == nil && p[0].Addresses[0].Address == netip.MustParseAddr("198.51.100.9")
	})
	if w, err := n.daemon.Client().Get(t.Context(), one.Key); err != nil || w.Address != one.Address {
		t.Errorf("after its pool moved: %+v, %v", w, err)
	}
	if two := n.put("two", workload2, n.w2, api.Request{}); two.Address != netip.MustParseAddr("198.51.100.9") {
		t.Errorf("from the new pool: %+v", two)
	}
	if got := n.natless("status"); !strings.Contains(got, "in no pool any more, and keep it until they end: 198.51.100.8 ports 1024-2047") {
		t.Error(got)
	}
}

// TestManyWorkloads prints what many assignments cost: the start, memory,
// and one more over the API.
func TestManyWorkloads(t *testing.T) {
	netns.Require(t, netns.Root)
	present := min(*presentWorkloads, 100_000)
	count := present / 100
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, strings.Replace(poolsConfig, "198.51.100.8/32, ports_per_workload: 1024", "10.0.0.0/21, ports_per_workload: 512", 1))
	pool := registry.Pool{Name: "default", IPv4: netip.MustParsePrefix("10.0.0.0/21"), PortsPerWorkload: 512}
	fill, err := registry.Open(registry.Options{Path: filepath.Join(n.daemon.Dir, "registry.db"), Pools: []registry.Pool{pool}})
	if err != nil {
		t.Fatal(err)
	}
	request := func(i int) (api.Key, api.Request) {
		ip := netip.MustParseAddr(fmt.Sprintf("2001:db8:a:%x::%x", i>>15, i&0x7fff+1))
		return keyOf(fmt.Sprintf("%016x%048x", uint64(i)*0x9e3779b97f4a7c15, i)), api.Request{Name: fmt.Sprintf("some-namespace/some-pod-%d", i),
			Network: "natless", Netns: "/proc/self/ns/net", IPv6: []netip.Addr{ip}}
	}
	parallel(1024, present, func(i int) { // together they share the disk's time
		k, q := request(i)
		if _, err := fill.Put(t.Context(), k, q); err != nil {
			t.Error(err)
		}
	})
	fill.Close()
	daemon.Build(t)
	start := time.Now()
	n.daemon.Start()
	ready, used := time.Since(start), cpu(t, n.daemon.PID())
	t.Logf("start with %d assignments: ready in %v, having used %v of CPU time, %d kB resident", present, ready, used, field(t, proc(t, n.daemon.PID(), "status"), "VmRSS:"))
	client := n.daemon.Client()
	var took []time.Duration
	for i := range count {
		k, q := request(present + i)
		start := time.Now()
		if _, err := client.Put(t.Context(), k, q); err != nil {
			t.Error(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("one more over the API: p50 %v, p99 %v", took[count/2], took[count*99/100])
	if s, err := client.Status(t.Context()); err != nil || s.Workloads != present+count || s.Mappings != present+count {
		t.Errorf("%+v, %v", s, err)
	}
}

// cpu is the time that a process has computed (proc(5), stat: utime and stime,
// in ticks of 10 ms).
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat := proc(t, pid, "stat")
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	var user, system int
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// parallel calls f for 0 to n-1 from several goroutines.
func parallel(goroutines, n int, f func(int)) {
	next := make(chan int)
	done := make(chan struct{})
	for range goroutines {
		go func() {
			for i := range next {
				f(i)
			}
			done <- struct{}{}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range goroutines {
		<-done
	}
}
