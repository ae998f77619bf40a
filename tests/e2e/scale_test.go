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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	explicitMappings = flag.Int("mappings", 100_000, "explicit mappings of TestScaleMappings and TestScaleBoth")
	presentWorkloads = flag.Int("workloads", 10_000, "workloads of TestScaleWorkloads and TestScaleBoth, and up to 100,000 of TestManyWorkloads")
	strict           = flag.Bool("strict", false, "hold the figures of the scale tests against their goals, on a machine that does nothing else")
	keepRegistry     = flag.String("registry", "", "a registry with -workloads workloads, which is made where it is not there; none: it is made each time")
	profiles         = flag.String("profiles", "", "a folder for profiles of the scale tests' daemons")
)

// reloads are by how many mappings the file is longer each time than at the start:
// nothing is another, the table in force is edited, and another is made beside it,
// twice.
var reloads = []int{0, 100, 5000, 0}

// Goals of a million mappings and a million workloads. Under the wide margin, other
// machines and what else they do have their way; over it, something has been lost.
const (
	goalResident          = 150_000 // kB, of mappings alone
	goalResidentWorkloads = 700_000 // kB, of workloads alone
	goalStart             = 5 * time.Second
	goalReload            = 2 * time.Second
	goalReloadFast        = 3 * time.Second // with the fast path
	goalPut               = 20 * time.Millisecond
	goalStatus            = 50 * time.Millisecond
	wideMargin            = 2

	// watchdogTimeout is a tenth of the unit's; it is told at half of it.
	watchdogTimeout = 3 * time.Second
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

const scalePool = "10.64.0.0/18"

// TestScaleMappings runs a daemon with very many explicit mappings in a file,
// reloads it, edits its table and asks for its status while packets flow both ways,
// and counts those that were lost.
func TestScaleMappings(t *testing.T) { scale(t, *explicitMappings, 0) }

// TestScaleWorkloads is TestScaleMappings with assignments of the registry.
func TestScaleWorkloads(t *testing.T) { scale(t, 0, *presentWorkloads) }

// TestScaleBoth has as many as both.
func TestScaleBoth(t *testing.T) {
	if !*strict {
		t.Skip("either alone shows what breaks; make scale has both")
	}
	scale(t, *explicitMappings, *presentWorkloads)
}

// fillRegistry makes a registry of n workloads.
func fillRegistry(t *testing.T, path string, n int) {
	t.Helper()
	if kept, err := os.ReadFile(*keepRegistry); err == nil {
		if err := os.WriteFile(path, kept, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	pool := registry.Pool{Name: "default", IPv4: netip.MustParsePrefix(scalePool), PortsPerWorkload: 512}
	fill, err := registry.Open(registry.Options{Path: path, Pools: []registry.Pool{pool}})
	if err != nil {
		t.Fatal(err)
	}
	parallel(max(4096, n/10), n, func(i int) { // together they share the disk's time
		k, q := present(i)
		if _, err := fill.Put(t.Context(), k, q); err != nil {
			t.Error(err)
		}
	})
	fill.Close()
	if *keepRegistry != "" {
		b, err := os.ReadFile(path)
		if err := errors.Join(err, os.WriteFile(*keepRegistry, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// present is a workload with names as long as Kubernetes makes them.
func present(i int) (api.Key, api.Request) {
	ip := netip.MustParseAddr(fmt.Sprintf("2001:db8:a:%x::%x", i>>15, i&0x7fff+1))
	return keyOf(fmt.Sprintf("%016x%048x", uint64(i)*0x9e3779b97f4a7c15, i)), api.Request{Name: fmt.Sprintf("some-namespace/some-pod-%d", i),
		Network: "natless", Netns: "/proc/self/ns/net", IPv6: []netip.Addr{ip}}
}

// scale starts a daemon with mappings and workloads, and measures.
func scale(t *testing.T, mappings, workloads int) {
	if !*strict {
		t.Parallel()
	}
	netns.Require(t, netns.Root)
	n := newNamespaces(t)
	n.host.IP("route add 2001:db8:a::/48 via 2001:db8:8::2") // to where workloads are
	config := baseConfig + "pools: [{name: default, ipv4: " + scalePool + ", ports_per_workload: 512, cooldown: 0s}]\n"
	config += "mappings_file: mappings\n"
	n.daemon = daemon.New(t, n.host, config)
	n.daemon.Patience = 5 * time.Minute
	if *profiles != "" {
		n.daemon.Write(config + fmt.Sprintf("api: {socket: %s, pprof: true}\n", n.daemon.Socket))
	}
	n.daemon.Env = []string{fmt.Sprint("WATCHDOG_USEC=", watchdogTimeout.Microseconds())}
	writeMappings(t, filepath.Join(n.daemon.Dir, "mappings"), mappings)
	if workloads > 0 {
		fillRegistry(t, filepath.Join(n.daemon.Dir, "registry.db"), workloads)
	}
	f := n.figures(mappings)
	t.Logf("%d mappings and %d workloads, fast path %s:\n%s", mappings, workloads, daemon.FastPath(), f)
	if f.lost != 0 || f.sent < 100 {
		t.Errorf("%d of %d datagrams were lost", f.lost, f.sent)
	}
	if s, err := n.daemon.Client().Status(t.Context()); err != nil || s.Mappings < mappings+workloads || s.Reload.Error != "" {
		t.Errorf("%+v, %v", s, err)
	}
	if *strict {
		f.judge(t, mappings, workloads)
	}
}

// figures are what scale measures.
type figures struct {
	ready, startCPU         time.Duration
	resident, settled, peak int // kB
	reloads                 []time.Duration
	reloadCPU               time.Duration // of each
	puts, statuses          []time.Duration
	idle                    []time.Duration // puts while nothing else is done
	heartbeat               time.Duration   // the longest that the watchdog waited
	sent, lost              int64
}

func (f *figures) String() string {
	return fmt.Sprintf("ready in %v, %v of CPU time; %d MB resident, then %d, %d at most\n%d reloads in %v, %v of CPU time each\n"+
		"meanwhile: %d puts, %s; %d statuses, %s; the watchdog waited %v at most, of %v; %d of %d datagrams lost\nwithout a reload: %d puts, %s",
		f.ready.Round(time.Millisecond), f.startCPU, f.resident/1000, f.settled/1000, f.peak/1000, len(f.reloads), f.reloads, f.reloadCPU,
		len(f.puts), spread(f.puts), len(f.statuses), spread(f.statuses), f.heartbeat.Round(time.Millisecond), watchdogTimeout,
		f.lost, f.sent, len(f.idle), spread(f.idle))
}

func percentile(took []time.Duration, p int) time.Duration {
	slices.Sort(took)
	return took[len(took)*p/100]
}

func spread(took []time.Duration) string {
	return fmt.Sprintf("p50 %v, p99 %v, at most %v", percentile(took, 50).Round(time.Microsecond), percentile(took, 99).Round(time.Microsecond),
		slices.Max(took).Round(time.Microsecond))
}

// judge holds figures against their goals.
func (f *figures) judge(t *testing.T, mappings, workloads int) {
	reload := goalReload
	if daemon.FastPath() != "off" {
		reload = goalReloadFast
	}
	held := func(what string, is, goal time.Duration) {
		if is > wideMargin*goal {
			t.Errorf("%s: %v, and the goal is %v", what, is, goal)
		} else if is > goal {
			t.Logf("%s: %v is more than the goal of %v", what, is, goal)
		}
	}
	held("the longest reload", slices.Max(f.reloads), reload)
	held("put during a reload, p99", percentile(f.puts, 99), goalPut)
	held("status during a reload, p99", percentile(f.statuses, 99), goalStatus)
	if f.heartbeat > watchdogTimeout {
		t.Errorf("the watchdog waited %v", f.heartbeat)
	}
	if mappings == 0 || workloads == 0 {
		held("start", f.ready, goalStart)
	}
	if most := max(f.resident, f.settled); mappings == 0 && most > goalResidentWorkloads*11/10 || workloads == 0 && most > goalResident*11/10 {
		t.Errorf("%d kB resident, and the goals are %d for mappings and %d for workloads", most, goalResident, goalResidentWorkloads)
	}
}

// figures starts the daemon and measures.
func (n *topology) figures(mappings int) *figures {
	t, f := n.t.(*testing.T), new(figures)
	daemon.Build(t)
	start := time.Now()
	n.daemon.Start()
	f.ready, f.startCPU, f.resident = time.Since(start), cpu(t, n.daemon.PID()), n.resident("VmRSS:")
	n.profile("heap")
	flows := []*load.Datagrams{load.SendDatagrams(t, n.w1, n.server, serverv6), load.SendDatagrams(t, n.server, n.w1, workload1v4)}

	idle := 100 * time.Millisecond
	if *strict {
		f.resident = n.settled(0)
		idle = 3 * time.Second
	}
	f.idle, _ = n.during(func() { time.Sleep(idle) })
	used := cpu(t, n.daemon.PID())
	f.puts, f.statuses = n.during(func() {
		go n.profile("cpu?seconds=20")
		for _, more := range reloads {
			writeMappings(t, filepath.Join(n.daemon.Dir, "mappings"), mappings+more)
			f.reloads = append(f.reloads, n.timedReload())
		}
	})
	f.reloadCPU = (cpu(t, n.daemon.PID()) - used) / time.Duration(len(f.reloads))
	for _, flow := range flows {
		s, l := flow.Finish()
		f.sent, f.lost = f.sent+s, f.lost+l
	}
	n.profile("allocs") // and what is in use, after all
	f.settled, f.peak = n.settled(f.resident), n.resident("VmHWM:")
	f.heartbeat = n.daemon.Longest("WATCHDOG=1")
	return f
}

// during edits the table and asks for the status all the time while f runs.
func (n *topology) during(f func()) (puts, statuses []time.Duration) {
	ctx, stop := context.WithCancel(n.t.Context())
	var both sync.WaitGroup
	both.Go(func() { puts = n.edit(ctx) })
	both.Go(func() { statuses = n.ask(ctx) })
	f()
	stop()
	both.Wait()
	return puts, statuses
}

// profile keeps a profile of the daemon, where one is asked for.
func (n *topology) profile(what string) {
	if *profiles == "" {
		return
	}
	name, _, _ := strings.Cut(what, "?")
	file := filepath.Join(*profiles, fmt.Sprintf("%s-%s.%s", n.t.Name(), daemon.FastPath(), name))
	out, err := exec.Command("curl", "-sf", "--unix-socket", n.daemon.Socket, "-o", file, "http://natless/v1/pprof/"+what).CombinedOutput()
	if err != nil {
		n.t.Logf("profile %s: %v %s", what, err, out)
	}
}

// settled waits until the daemon has given back what it does not need any more, or it
// has been given much time for it, and says what it takes then: little more than most,
// or, where that is 0, what stays the same for a while.
func (n *topology) settled(most int) (now int) {
	if !*strict {
		return n.resident("VmRSS:")
	}
	for same, tries := 0, 0; same < 15 && tries < 100; tries++ {
		last := now
		if now = n.resident("VmRSS:"); most > 0 && now < most+most/8 {
			return now
		}
		if same++; most > 0 || now < last*98/100 || tries == 0 {
			same = 0
		}
		time.Sleep(200 * time.Millisecond)
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

// ask asks for the status, again and again, and says how long each took.
func (n *topology) ask(ctx context.Context) (took []time.Duration) {
	client := n.daemon.Client()
	for once := true; once || ctx.Err() == nil; once = false {
		start := time.Now()
		if _, err := client.Status(context.WithoutCancel(ctx)); err != nil {
			n.t.Errorf("status: %v", err)
			return append(took, 0)
		}
		took = append(took, time.Since(start))
		time.Sleep(20 * time.Millisecond)
	}
	return took
}

// timedReload sends SIGHUP and waits until the daemon tells its service manager that it
// is done.
func (n *topology) timedReload() time.Duration {
	before, failed := n.daemon.Notified("READY=1"), strings.Count(n.daemon.Log(), "msg=\"reload ")
	start := time.Now()
	n.daemon.Signal(syscall.SIGHUP)
	within(n.t, 5*time.Minute, "a reload", func() bool { return n.daemon.Notified("READY=1") > before })
	took := time.Since(start).Round(time.Millisecond)
	if strings.Count(n.daemon.Log(), "msg=\"reload ") > failed {
		n.t.Error("a reload has failed")
	}
	return took
}
