//go:build linux

package overload

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/tests/load"
	"github.com/natless/natless/tests/netns"
)

// paths are the ways of packets.
func paths(t *testing.T, test func(t *testing.T, config string)) {
	netns.Require(t, netns.Root)
	for _, path := range []string{"off", "auto"} {
		t.Run("fast path "+path, func(t *testing.T) { test(t, "fast_path: "+path+"\n") })
	}
}

func (n *topology) status() (s api.Status) {
	n.t.Helper()
	s, err := n.daemon.Client().Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func shed(s api.Status) uint64 {
	for _, l := range s.Limits {
		if l.What == "daemon-packets" {
			return l.Refused
		}
	}
	return 0
}

// TestOverload: on a host whose processors have nothing left, a workload that floods
// gives way, is named, and nobody else is; the daemon gets no more of it than the level;
// a neighbour is answered; and when the flood is over, so is all of it.
func TestOverload(t *testing.T) {
	paths(t, func(t *testing.T, config string) {
		n := newTopology(t, 0, config)
		n.role(n.server, "serve")
		var floods []*actor
		for i := range 2 * runtime.NumCPU() { // one that waits for room in its socket leaves none idle
			floods = append(floods, n.role(n.flooder, "flood", "options", flooder6, server6, floodPort, i%runtime.NumCPU()))
			floods[i].ask("here")
		}
		neighbour := n.role(n.quiet, "neighbour")
		var over atomic.Bool
		heard := make(chan struct{})
		go func() { // one packet may be lost, while nobody gives way yet
			defer close(heard)
			for !over.Load() {
				neighbour.ask("ping", 300*time.Millisecond, "options", 100*time.Millisecond)
			}
		}()
		defer func() {
			over.Store(true)
			<-heard
			if t.Failed() {
				stat, _ := os.ReadFile("/proc/stat")
				t.Logf("load %s, %d processors here; %.100s\nlimits %+v\nverdicts %v", loadAverage(), runtime.NumCPU(), stat, n.status().Limits, n.status().Verdicts)
			}
		}()
		load.Within(t, 10*time.Second, "somebody gives way", func() bool {
			s := n.status()
			return s.Shedding != nil && len(s.Shedding.Workloads) > 0 && shed(s) > 0
		})
		over.Store(true)
		<-heard
		trips := make(chan []float64, 1)
		go func() { trips <- figuresOf(neighbour.ask("ping", 1500*time.Millisecond, "options", 10*time.Second)) }()
		before, began := n.status(), time.Now()
		load.Within(t, 5*time.Second, "packets are dropped", func() bool { return shed(n.status()) > shed(before)+5000 })
		after := n.status()
		if after.Shedding != nil && before.Shedding != nil {
			passed := float64(after.Verdicts["forward4"] - before.Verdicts["forward4"])
			if most := max(after.Shedding.Packets, before.Shedding.Packets) * (time.Since(began).Seconds() + 0.5) * 2; passed > most && config == "fast_path: auto\n" {
				t.Errorf("%.0f packets of a flooder came to the daemon, more than %.0f", passed, most)
			}
			for _, w := range after.Shedding.Workloads {
				if w.Who != flooder6 {
					t.Errorf("%+v gives way", w)
				}
			}
		}
		if got := checkOf(after, "overload"); after.Shedding != nil && !strings.Contains(got, flooder6+" sends too much") {
			t.Errorf("the check says %q", got)
		}
		got := <-trips
		if n := answered(got); n < len(got)/2 {
			t.Errorf("a neighbour got %d of %d answers", n, len(got))
		}
		for _, f := range floods {
			f.ask("off")
		}
		load.Within(t, 10*time.Second, "the end of it", func() bool { s := n.status(); return s.Shedding == nil && checkOf(s, "overload") == "" })
	})
}

func checkOf(s api.Status, name string) string {
	for _, c := range s.Checks {
		if c.Name == name {
			return cmp.Or(c.Detail, c.State)
		}
	}
	return ""
}

// TestLimits: a workload with a limit of packets brings no more, each way, also where the
// fast path translates; its neighbour brings all; and a reload takes the limit away.
func TestLimits(t *testing.T) {
	paths(t, func(t *testing.T, config string) {
		n := newTopology(t, 0, config+"shedding: {workloads: [{ipv6: '"+flooder6+"/128', sent: {packets: 100}, received: {packets: 100}}]}\n")
		send := func(from, to *netns.NS, local int, address string, listen string) (arrived int, took time.Duration) {
			t.Helper()
			var in, out *net.UDPConn
			var err error
			to.Do(func() {
				a, e := net.ResolveUDPAddr("udp", listen)
				if err = e; err == nil {
					in, err = net.ListenUDP("udp", a)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			in.SetReadBuffer(4 << 20)
			a, err := net.ResolveUDPAddr("udp", address)
			if err != nil {
				t.Fatal(err)
			}
			from.Do(func() { out, err = net.ListenUDP("udp", &net.UDPAddr{Port: local}) })
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			began := time.Now()
			for i := range 300 {
				out.WriteTo([]byte("datagram"), a)
				if i%20 == 19 { // no queue is to be full
					time.Sleep(10 * time.Millisecond)
				}
			}
			took = time.Since(began)
			for b := make([]byte, 100); ; arrived++ {
				in.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				if _, err := in.Read(b); err != nil {
					return arrived, took
				}
			}
		}
		type way struct {
			who      string
			limited  bool
			from, to *netns.NS
			local    int
			address  string
			listen   string
		}
		quiet4, flooder4 := "198.51.100.2", "198.51.100.2"
		ways := []way{
			{"flooder sends", true, n.flooder, n.server, floodPort, "[" + server6 + "]:7000", "0.0.0.0:7000"},
			{"quiet sends", false, n.quiet, n.server, quietPort, "[" + server6 + "]:7000", "0.0.0.0:7000"},
			{"flooder is sent", true, n.server, n.flooder, 7001, fmt.Sprintf("%s:%d", flooder4, floodPort+1), fmt.Sprintf("[%s]:%d", flooder6, floodPort+1)},
			{"quiet is sent", false, n.server, n.quiet, 7001, fmt.Sprintf("%s:%d", quiet4, quietPort+1), fmt.Sprintf("[%s]:%d", quiet6, quietPort+1)},
		}
		for _, w := range ways {
			got, took := send(w.from, w.to, w.local, w.address, w.listen)
			if most := 100*took.Seconds() + 10; w.limited && (float64(got) > most || got == 0) {
				t.Errorf("%s: %d of 300 datagrams in %v, at 100 a second", w.who, got, took)
			}
			if !w.limited && got < 295 {
				t.Errorf("%s: %d of 300 datagrams", w.who, got)
			}
		}
		load.Within(t, 5*time.Second, "it is counted", func() bool { return shed(n.status()) > 100 })
		if s := n.status(); s.Shedding != nil {
			t.Errorf("the host is overloaded: %+v", s.Shedding)
		}
		n.reconfigure(config)
		for _, w := range ways[:1] {
			if got, _ := send(w.from, w.to, w.local, w.address, w.listen); got < 295 {
				t.Errorf("%s, without a limit: %d of 300 datagrams", w.who, got)
			}
		}
	})
}

// reconfigure has the daemon go by another head of its configuration.
func (n *topology) reconfigure(more string) {
	n.t.Helper()
	n.daemon.Write(n.configuration(more))
	before := n.status().Reload.At
	n.daemon.Signal(syscall.SIGHUP)
	load.Within(n.t, 10*time.Second, "the reload", func() bool { return n.status().Reload.At.After(before) })
	if s := n.status(); s.Reload.Error != "" {
		n.t.Fatal(s.Reload.Error)
	}
	time.Sleep(250 * time.Millisecond) // it is followed a moment later
}
