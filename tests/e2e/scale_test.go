//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

var (
	explicitMappings = flag.Int("mappings", 100_000, "explicit mappings of TestScaleMappings")
	presentWorkloads = flag.Int("workloads", 10_000, "workloads of TestScaleWorkloads, and up to 100,000 of TestManyWorkloads")
	strict           = flag.Bool("strict", false, "hold the figures of the scale tests against their goals, on a machine that does nothing else")
)

// Goals of a million.
const (
	goalResident = 150_000 // kB
	goalReload   = 2 * time.Second
)

// writeMappings writes a file of n mappings, no IPv6 address in the order of
// the IPv4 ones.
func writeMappings(t *testing.T, path string, n int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range n {
		h := uint64(i) * 0x9e3779b97f4a7c15
		fmt.Fprintf(w, "2001:db8:a:%x:%x:%x:%x:%x\t10.%d.%d.%d\n", i>>16, h>>48, h>>32&0xffff, h>>16&0xffff, i&0xffff, i>>16, i>>8&255, i&255)
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestScaleMappings runs a daemon with very many explicit mappings in a file,
// reloads it and edits its table while packets flow both ways, and counts those
// that were lost.
func TestScaleMappings(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, baseConfig+"mappings_file: mappings\npools: [{name: default, ipv4: 198.51.100.8/30, ports_per_workload: 64, cooldown: 0s}]\n")
	writeMappings(t, filepath.Join(n.daemon.Dir, "mappings"), *explicitMappings)
	n.scale("explicit mappings", *explicitMappings)
}

// TestScaleWorkloads is TestScaleMappings with assignments of the registry.
func TestScaleWorkloads(t *testing.T) {
	t.Parallel()
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.daemon = daemon.New(t, n.host, baseConfig+"pools: [{name: default, ipv4: 10.0.0.0/18, ports_per_workload: 512, cooldown: 0s}]\n")
	pool := registry.Pool{Name: "default", IPv4: netip.MustParsePrefix("10.0.0.0/18"), PortsPerWorkload: 512}
	fill, err := registry.Open(registry.Options{Path: filepath.Join(n.daemon.Dir, "registry.db"), Pools: []registry.Pool{pool}})
	if err != nil {
		t.Fatal(err)
	}
	parallel(4096, *presentWorkloads, func(i int) { // together they share the disk's time
		k, q := present(i)
		if _, err := fill.Put(t.Context(), k, q); err != nil {
			t.Error(err)
		}
	})
	fill.Close()
	n.scale("workloads", *presentWorkloads)
}

// present is a workload with names as long as Kubernetes makes them.
func present(i int) (api.Key, api.Request) {
	ip := netip.MustParseAddr(fmt.Sprintf("2001:db8:a:%x::%x", i>>15, i&0x7fff+1))
	return keyOf(fmt.Sprintf("%016x%048x", uint64(i)*0x9e3779b97f4a7c15, i)), api.Request{Name: fmt.Sprintf("some-namespace/some-pod-%d", i),
		Network: "natless", Netns: "/proc/self/ns/net", IPv6: []netip.Addr{ip}}
}

// scale starts the daemon and measures.
func (n *topology) scale(what string, count int) {
	t := n.t.(*testing.T)
	daemon.Build(t)
	start := time.Now()
	n.daemon.Start()
	ready := time.Since(start)
	resident := n.resident("VmRSS:")
	flows := []*load.Datagrams{load.SendDatagrams(t, n.w1, n.server, serverv6), load.SendDatagrams(t, n.server, n.w1, workload1v4)}

	ctx, stop := context.WithCancel(t.Context())
	edits := make(chan []time.Duration)
	go func() { edits <- n.edit(ctx) }()
	var reloads []time.Duration
	for range 3 {
		reloads = append(reloads, n.timedReload())
	}
	stop()
	took := <-edits
	slices.Sort(took)
	var lost, sent int64
	for _, f := range flows {
		s, l := f.Finish()
		sent, lost = sent+s, lost+l
	}
	after, peak := n.settled(resident), n.resident("VmHWM:")
	t.Logf("%d %s: ready in %v with %d kB resident; 3 reloads in %v; meanwhile %d edits over the API, p50 %v, p99 %v, and %d of %d datagrams lost; then %d kB resident, %d kB at most",
		count, what, ready.Round(time.Millisecond), resident, reloads, len(took), took[len(took)/2], took[len(took)*99/100], lost, sent, after, peak)
	if lost != 0 || sent < 100 {
		t.Errorf("%d of %d datagrams were lost", lost, sent)
	}
	if s, err := n.daemon.Client().Status(t.Context()); err != nil || s.Mappings < count || s.Reload.Error != "" {
		t.Errorf("%+v, %v", s, err)
	}
	if *strict && what == "explicit mappings" && (max(resident, after) > goalResident || slices.Min(reloads) > goalReload) {
		t.Errorf("more than %d kB or %v", goalResident, goalReload)
	}
}

// settled waits a while until the daemon takes little more than it did before,
// and says what it takes.
func (n *topology) settled(before int) (now int) {
	for range 50 {
		if now = n.resident("VmRSS:"); now < before+before/8 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return now
}

func (n *topology) resident(which string) int {
	t := n.t.(*testing.T)
	return field(t, proc(t, n.daemon.PID(), "status"), which)
}

// edit puts and deletes a workload, again and again, and says how long each
// took.
func (n *topology) edit(ctx context.Context) (took []time.Duration) {
	client := n.daemon.Client()
	k, q := present(0)
	k.ContainerID, q.IPv6, q.Netns = "edited", []netip.Addr{netip.MustParseAddr("2001:db8:b::1")}, ""
	for once := true; once || ctx.Err() == nil; once = false {
		start := time.Now()
		if _, err := client.Put(context.WithoutCancel(ctx), k, q); err != nil {
			n.t.Errorf("put: %v", err)
			return append(took, 0)
		}
		took = append(took, time.Since(start))
		if err := client.Delete(context.WithoutCancel(ctx), k); err != nil {
			n.t.Errorf("delete: %v", err)
			return took
		}
		time.Sleep(10 * time.Millisecond)
	}
	return took
}

// timedReload sends SIGHUP and waits until the daemon says that it is done.
func (n *topology) timedReload() time.Duration {
	count := func() int { return strings.Count(n.daemon.Log(), "msg=reloaded") }
	before := count()
	start := time.Now()
	n.daemon.Signal(syscall.SIGHUP)
	within(n.t, 60*time.Second, "a reload", func() bool { return count() > before })
	return time.Since(start).Round(time.Millisecond)
}
