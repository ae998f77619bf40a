//go:build linux

// Package soak runs a daemon for hours with workloads that come and go, under
// traffic, while it is killed, reloaded and cut off, and wants nothing to grow.
// What can be proven in a minute may not enter here.
package soak

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/daemon"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

var (
	span       = flag.Duration("for", 10*time.Second, "`how long` the test runs; make soak says two hours")
	population = flag.Int("workloads", 100, "`how many` workloads there are at a time; make soak says ten thousand")
)

const (
	perSecond  = 50      // puts, and as many deletes
	history    = 100_000 // what was given back, and is kept by default
	workload   = "2001:db8:6::2"
	workload4  = "198.51.100.2"
	server     = "192.0.2.2"
	server6    = "2001:db8:64::c000:202"
	killEvery  = time.Minute
	loadEvery  = 17 * time.Second
	flapEvery  = 41 * time.Second
	soakConfig = `
prefix: 2001:db8:64::/96
uplink: uplink
addresses: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
mappings: [{ipv6: "2001:db8:6::2", ipv4: 198.51.100.2}]
pools: [{name: default, ipv4: 100.64.0.0/20, ports_per_workload: 512, cooldown: 1s}]
metrics: {listen: "[::1]:9464"}
`
)

func TestMain(m *testing.M) {
	status := m.Run()
	daemon.Remove()
	os.Exit(status)
}

// TestSoak: in the first half the daemon is killed each minute, reloaded and
// cut off; in the second it lives, and what it takes must not grow.
func TestSoak(t *testing.T) {
	netns.Require(t, netns.Root, "ip")
	for _, path := range []string{"auto", "off"} {
		t.Run("fast_path="+path, func(t *testing.T) {
			t.Parallel()
			newRig(t, path).soak()
		})
	}
}

type rig struct {
	*testing.T
	w, host, server *netns.NS
	daemon          *daemon.Daemon
	client          *api.Client
	kills, reloads  int
	flaps           int
}

func newRig(t *testing.T, offload string) *rig {
	r := &rig{T: t, w: netns.New(t, "w"), host: netns.New(t, "host"), server: netns.New(t, "server")}
	netns.Veth(t, r.w, "eth0", r.host, "w")
	netns.Veth(t, r.host, "uplink", r.server, "eth0")
	r.w.IP("addr add 2001:db8:6::2/64 dev eth0")
	r.host.IP("addr add 2001:db8:6::1/64 dev w")
	r.host.IP("addr add 192.0.2.1/24 dev uplink")
	r.server.IP("addr add 192.0.2.2/24 dev eth0")
	r.w.IP("route add default via 2001:db8:6::1")
	r.server.IP("route add default via 192.0.2.1")
	r.daemon = daemon.Start(t, r.host, soakConfig+"fast_path: "+offload+"\n")
	r.client = r.daemon.Client()
	return r
}

func (r *rig) soak() {
	began := time.Now()
	out := load.StartPaced(r, r.w, r.server, server6)
	back := load.StartPaced(r, r.server, r.w, workload4)
	churn := startChurn(r)
	within(r, 2*time.Minute, "all workloads", func() bool { return churn.present() >= *population })
	var rows []usage
	note := func() {
		rows = append(rows, r.usage())
		r.Logf("%5.0f s %v; %d kills, %d reloads, %d flaps, %d puts", time.Since(began).Seconds(), rows[len(rows)-1],
			r.kills, r.reloads, r.flaps, churn.puts.Load())
	}
	note()
	end := began.Add(*span)
	r.disturb(began.Add(*span/2), note)
	within(r, 2*time.Minute, "all workloads", func() bool { return churn.present() >= *population })
	first := r.least(*span / 20)
	full := churn.puts.Load() >= history
	r.calm(end, note)
	last := r.least(*span / 20)
	churn.stop()
	r.Logf("undisturbed, from\n\t%v to\n\t%v", first, last)
	if !full {
		last.registry = 0 // it grows until then
	}
	last.compare(r.T, first)
	churn.check()
	out.Finish()
	back.Finish()
}

// disturb kills, reloads and cuts off until the end.
func (r *rig) disturb(end time.Time, note func()) {
	kill, reload, flap := ticker(killEvery), ticker(loadEvery), ticker(flapEvery)
	defer kill.Stop()
	defer reload.Stop()
	defer flap.Stop()
	for time.Now().Before(end) {
		select {
		case <-kill.C:

			r.daemon.Kill()
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
			r.daemon.Start()

			r.kills++
			note()
		case <-reload.C:
			r.reload()
		case <-flap.C:
			r.host.IP("link set uplink down")
			time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
			r.host.IP("link set uplink up")
			r.flaps++
		case <-time.After(time.Until(end)):
		}
	}
}

// ticker ticks at least twice in a short run's first half.
func ticker(every time.Duration) *time.Ticker {
	return time.NewTicker(min(every, *span/5))
}

// least is what the daemon takes after a while, and of memory the least that it
// took meanwhile: between two collections of garbage it takes more.
func (r *rig) least(while time.Duration) usage {
	u := r.usage()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(time.Second) {
		now := r.usage()
		now.memory = min(now.memory, u.memory)
		u = now
	}
	return u
}

// calm reloads, and no more.
func (r *rig) calm(end time.Time, note func()) {
	every := *span / 20
	for next := time.Now().Add(every); time.Now().Before(end); time.Sleep(time.Second) {
		if time.Now().After(next) {
			r.reload()
			note()
			next = next.Add(every)
		}
	}
}

func (r *rig) reload() {
	if _, err := r.client.Reload(r.Context()); err != nil {
		r.Errorf("reload: %v", err)
	}
	r.reloads++
}

// within is load.Within, which no subtest may call with another's T.
func within(r *rig, d time.Duration, what string, done func() bool) {
	r.Helper()
	load.Within(r.T, d, what, done)
}

func key(n uint64) api.Key {
	return api.Key{ContainerID: fmt.Sprintf("soak-%d", n), Interface: "eth0"}
}
