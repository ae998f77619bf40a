//go:build linux

package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

var (
	kills = flag.Int("kills", 4, "how often natlessd is killed")
	seed  = flag.Uint64("seed", 0, "of the moments; 0: another each time")
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	if killingDir != "" {
		os.RemoveAll(killingDir)
	}
	os.Exit(status)
}

const (
	workers = 4
	keys    = 12 // of each worker
)

// Two configurations, between which reloads change.
var configs = []string{`
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
registry: {path: REGISTRY, history: 100}
pools:
  - {name: default, ipv4: 198.51.100.8/31, ports_per_workload: 1024, cooldown: 100ms}
  - {name: host, ipv4: uplink, ports: 40000-60000, ports_per_workload: 256, cooldown: 100ms}
  - {name: whole, ipv4: 198.51.100.32/28, whole_address: true, cooldown: 100ms}
`, `
uplink: uplink
prefix: 2001:db8:64::/96
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
registry: {path: REGISTRY, history: 20}
icmp_source_pool: {ipv4: 203.0.113.128/28}
mappings:
  - {ipv6: "2001:db8:9::/120", ipv4: 203.0.113.0/25}
pools:
  - {name: default, ipv4: 198.51.100.8/31, ports_per_workload: 1024, cooldown: 100ms}
  - {name: host, ipv4: uplink, ports: 40000-60000, ports_per_workload: 256, cooldown: 100ms}
  - {name: whole, ipv4: 198.51.100.32/28, whole_address: true, cooldown: 100ms}
`}

// host is a host with a daemon that is killed.
type host struct {
	*netns.NS
	t        *testing.T
	rnd      *rand.Rand
	daemon   *daemon.Daemon
	registry string
	state    []string // of the kernel, by configuration
	before   string   // without a natlessd
	config   int      // that is on disk

	pause   sync.RWMutex // held for reading by who asks the daemon
	mu      sync.Mutex   // guards history
	history []event
}

func newHost(t *testing.T) *host {
	t.Helper()
	netns.Require(t, netns.Root, "ip", "nft", "sysctl", "nsenter")
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", *seed)
	h := &host{NS: netns.New(t, "crash"), t: t, rnd: rand.New(rand.NewPCG(*seed, 0))}
	server := netns.New(t, "server")
	netns.Veth(t, h.NS, "uplink", server, "eth0")
	h.IP("addr add 192.0.2.1/24 dev uplink")
	h.IP("route add default via 192.0.2.2")
	h.Run("sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 32767")
	h.before = h.read()
	h.daemon = daemon.New(t, h.NS, "registry: x")
	h.registry = filepath.Join(h.daemon.Dir, "registry.db")
	for i := range configs {
		h.write(i)
		h.daemon.Start()
		h.state = append(h.state, h.settled())
		h.daemon.Stop()
		h.clean("after SIGTERM")
	}
	return h
}

// settled is the kernel's state when it changes no more.
func (h *host) settled() string {
	h.t.Helper()
	last := ""
	load.Within(h.t, 5*time.Second, "a state that stays", func() bool {
		now := h.read()
		same := now == last
		last = now
		return same
	})
	return last
}

func (h *host) write(config int) {
	h.t.Helper()
	h.config = config
	h.daemon.Write(strings.ReplaceAll(configs[config], "REGISTRY", h.registry))
}

// read is what a natlessd may change in its host's kernel.
func (h *host) read() string {
	h.t.Helper()
	return h.Run("bash", "-c", `
		ip -o link 2>/dev/null | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/ state .*//'
		ip -o addr | sed 's/^[0-9]*: //; s/ tentative//'
		for family in -4 -6; do
			ip $family route show table all; ip $family rule; ip $family neigh show proxy
		done
		nft -t list ruleset | sed 's/device [0-9]*/device N/g; s/"natless0"/N/g; s/packets [0-9]* bytes [0-9]*//; s/iif [0-9]*/iif N/g'
		cd /proc/sys; grep -rs '' net/ipv4/conf net/ipv4/ip_* net/ipv6/conf | grep -v -e stable_secret -e natless0
		ls /sys/fs/bpf/natless 2>/dev/null | grep "@$(stat -Lc %i /proc/self/ns/net)$" || true`)
}

// same fails the test when the kernel is not as wanted soon.
func (h *host) same(want, when string) {
	h.t.Helper()
	got := ""
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = h.read(); got == want {
			return
		}
	}
	h.t.Errorf("%s the kernel is another:\n%s", when, cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
}

func (h *host) clean(when string) { h.t.Helper(); h.same(h.before, when) }

func (h *host) note(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history = append(h.history, e)
}

// churn puts and deletes the keys of one worker until ctx is done, also while
// nobody answers.
func (h *host) churn(ctx context.Context, worker int) {
	rnd := rand.New(rand.NewPCG(*seed, uint64(worker+1)))
	for ctx.Err() == nil {
		h.pause.RLock()
		h.ask(rnd, worker*keys+rnd.IntN(keys))
		h.pause.RUnlock()
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
	}
}

func (h *host) ask(rnd *rand.Rand, n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c := h.daemon.Client()
	defer c.Close()
	e := event{key: n, what: deleted}
	var err error
	if rnd.IntN(3) == 0 {
		h.note(event{key: n, what: deleting})
		if err = c.Delete(ctx, keyOf(n)); errors.Is(err, api.ErrNotFound) {
			err = nil
		}
	} else {
		q := api.Request{IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8:6::%x", n+1))},
			Pool: []string{"default", "host", "whole"}[rnd.IntN(3)]}
		h.note(event{key: n, what: putting})
		var w api.Workload
		w, err = c.Put(ctx, keyOf(n), q)
		e.what, e.got = given, shareOf(w)
	}
	if p := (*api.Problem)(nil); errors.As(err, &p) && p.Code != api.CodeUnavailable && p.Code != api.CodeInternal {
		e = event{key: n, what: refused}
	} else if err != nil {
		e = event{key: n, what: lost}
		time.Sleep(10 * time.Millisecond)
	}
	h.note(e)
}

func keyOf(n int) api.Key { return api.Key{ContainerID: fmt.Sprint("c", n), Interface: "eth0"} }

// look notes what is there while nobody asks for anything.
func (h *host) look() {
	h.t.Helper()
	h.pause.Lock()
	defer h.pause.Unlock()
	all, err := h.daemon.Client().List(h.t.Context(), api.Filter{})
	if err != nil {
		h.t.Fatal(err)
	}
	e := event{what: found, key: -1, all: map[int]share{}}
	for _, w := range all {
		var n int
		fmt.Sscanf(w.ContainerID, "c%d", &n)
		e.all[n] = shareOf(w)
	}
	h.note(e)
}

// moment waits for up to d.
func (h *host) moment(d time.Duration) { time.Sleep(time.Duration(h.rnd.Int64N(int64(d)))) }

// killed runs natlessd, and kills it at a moment before d.
func (h *host) killed(d time.Duration, more ...string) {
	h.t.Helper()
	cmd := h.Command(filepath.Join(daemon.Build(h.t), "natlessd"), append([]string{"--config", h.daemon.Config}, more...)...)
	if err := netns.Start(cmd); err != nil {
		h.t.Fatal(err)
	}
	h.moment(d)
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
}

// begin starts a natlessd that leaves what it made to the next one, or not.
func (h *host) begin() {
	h.daemon.Flags = nil
	if h.rnd.IntN(2) == 0 {
		h.daemon.Flags = []string{"--handover"}
	}
	h.daemon.Start()
}

// TestCrash kills natlessd while it starts, while workloads come and go, while it
// reloads, and while it cleans up. After each kill the registry is sound; after
// the next start nobody has lost what was acknowledged, nobody has what another
// has, and the kernel is as after a first start; after a clean-up nothing is left.
func TestCrash(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(context.Background())
	var churning sync.WaitGroup
	for w := range workers {
		churning.Go(func() { h.churn(ctx, w) })
	}
	defer churning.Wait()
	defer cancel()
	h.begin()
	count := map[string]int{}
	for n := 0; n < *kills && !t.Failed(); n++ {
		phase := []string{"start", "churn", "reload", "clean-up"}[n%4]
		count[phase]++
		when := fmt.Sprintf("kill %d, in %s", n, phase)
		switch phase {
		case "churn":
			h.moment(200 * time.Millisecond)
		case "reload":
			h.write(1 - h.config)
			h.daemon.Signal(syscall.SIGHUP)
			h.moment(50 * time.Millisecond)
		}
		h.daemon.Kill()
		if h.rnd.IntN(2) == 0 {
			h.daemon.Release()
		}
		switch phase {
		case "start":
			h.killed(600 * time.Millisecond)
		case "clean-up":
			h.daemon.Release()
			h.killed(60*time.Millisecond, "--cleanup")
			h.Run(filepath.Join(daemon.Build(t), "natlessd"), "--config", h.daemon.Config, "--cleanup")
			h.clean(when + ", and cleaned up:")
		}
		if _, err := registry.Check(h.registry); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		h.begin()
		h.look()
		h.same(h.state[h.config], when+": after the next start")
	}
	h.look()
	h.daemon.Kill()
	h.daemon.Release()
	h.Run(filepath.Join(daemon.Build(t), "natlessd"), "--config", h.daemon.Config, "--cleanup")
	h.clean("at the end")
	cancel()
	churning.Wait()
	answered := map[what]int{}
	for _, e := range h.history {
		answered[e.what]++
	}
	t.Logf("%v kills; %d shares given, %d given back, %d requests refused, %d without an answer, %d looks",
		count, answered[given], answered[deleted], answered[refused], answered[lost], answered[found])
	for _, wrong := range judge(h.history) {
		t.Error(wrong)
	}
	if answered[given] < *kills || answered[lost] == 0 {
		t.Error("this proves nothing")
	}
}
