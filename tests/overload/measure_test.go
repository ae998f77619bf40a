//go:build linux

package overload

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

var (
	figures = flag.Bool("figures", false, "measure")
	length  = flag.Duration("length", time.Second, "of both streams in one measurement; the others take less")
	rounds  = flag.Int("rounds", 3, "pairs of measurements")
	which   = flag.String("kinds", strings.Join(append(kinds, remoteKinds...), ","), "")
	more    = flag.String("config", "", "lines of the daemon's configuration")
	crowd   = flag.Int("crowd", 0, "how many workloads there are besides, each of which sends a little")
	strict  = flag.Bool("strict", false, "fail where a neighbour gets less than he should")
	verbose = flag.Bool("log", false, "show the daemon's log")
	shares  = flag.Int("shares", 0, "a cgroup with so many shares of the processors for all of it: 1024 are what others have")
	each    = flag.Bool("each", false, "show every measurement")
)

// got is what a neighbour gets: of a stream in Mbit/s, and in µs of round trips whose packets
// are plain, of others that the fast path leaves to the daemon, of transfers both ways that
// have to find their path MTU, and of names.
type got struct {
	mbits                         []float64
	plain, options, up, down, dns []float64
}

func (g *got) add(o got) {
	g.mbits, g.plain, g.options = append(g.mbits, o.mbits...), append(g.plain, o.plain...), append(g.options, o.options...)
	g.up, g.down, g.dns = append(g.up, o.up...), append(g.down, o.down...), append(g.dns, o.dns...)
}

func (g got) String() string {
	return fmt.Sprintf("stream %.0f Mbit/s; round trips %v; with options %v; upload %v; download %v; names %v", g.mbits,
		spread(g.plain), spread(g.options), spread(g.up), spread(g.down), spread(g.dns))
}

// spread is the median, 99th percentile and number, and how many there are not.
func spread(all []float64) string {
	return fmt.Sprintf("%.1f/%.1f ms (%d of %d)", part(all, 0.5)/1e3, part(all, 0.99)/1e3, answered(all), len(all))
}

func part(all []float64, p float64) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[min(int(float64(len(all))*p), len(all)-1)]
}

func answered(all []float64) (n int) {
	for _, t := range all {
		if t < lost {
			n++
		}
	}
	return n
}

func figuresOf(line string) (all []float64) {
	for _, w := range strings.Fields(line) {
		v, err := strconv.ParseFloat(w, 64)
		if err != nil {
			panic(err)
		}
		all = append(all, v)
	}
	return all
}

// measurer asks a neighbour.
type measurer struct {
	*topology
	neighbour *actor
	places    int    // that were sent to
	zone      string // of names
}

func (m *measurer) measure() (g got) {
	const patience = 200 * time.Millisecond
	g.mbits = []float64{0}
	for range 2 {
		s := figuresOf(m.neighbour.ask("stream", *length/2))
		g.mbits[0] += s[0] * 8 / s[1] / 1e6 / 2
		g.down = append(g.down, figuresOf(m.neighbour.ask("down"))...)
		m.places++
		g.up = append(g.up, figuresOf(m.neighbour.ask("up", fmt.Sprintf("2001:db8:64::c000:2%02x", 128+m.places%127)))...)
		g.plain = append(g.plain, figuresOf(m.neighbour.ask("ping", *length/4, "plain", patience))...)
		g.options = append(g.options, figuresOf(m.neighbour.ask("ping", *length/4, "options", patience))...)
		g.dns = append(g.dns, figuresOf(m.neighbour.ask("names", *length/4, m.zone))...)
	}
	return g
}

// flooded is what he gets while a flooder sends here or away.
func (m *measurer) flooded(flooder *actor, where string) (g got, sent string) {
	flooder.ask(where)
	time.Sleep(700 * time.Millisecond) // the governor has noticed
	flooder.ask(where)
	began := time.Now()
	g = m.measure()
	n, _ := strconv.ParseFloat(flooder.ask(where), 64)
	return g, fmt.Sprintf("%.0f packets a second sent", n/time.Since(began).Seconds())
}

// TestMeasure prints what a neighbour of a flooder gets, and what he gets while the same
// packets go nowhere: the processor that the flooder has in either case is not to be
// blamed on anybody.
func TestMeasure(t *testing.T) {
	if !*figures {
		t.Skip("make overload")
	}
	netns.Require(t, netns.Root)
	if *shares > 0 {
		confine(t, *shares)
	}
	n := newTopology(t, *crowd, *more+"\n")
	n.role(n.server, "serve")
	if *verbose {
		defer func() { t.Log(n.daemon.Log()) }()
	}
	if *crowd > 0 {
		n.role(n.crowd, "crowd", *crowd, 10*min(*crowd, 1000))
	}
	m := &measurer{topology: n, neighbour: n.role(n.quiet, "neighbour")}
	for _, kind := range strings.Split(*which, ",") {
		m.kind(t, kind)
	}
}

// kind measures beside one kind of flood, here and away in turn.
func (m *measurer) kind(t *testing.T, kind string) {
	to, from := server6, m.topology.flooder
	m.zone = "example."
	switch {
	case kind == "lookups":
		to, m.zone = own6, scarceNames
	case kind == "own" || kind == "names":
		to = own6
	case strings.HasPrefix(kind, "in-"):
		from = m.remote
	}
	flooder := m.role(from, "flood", kind, flooder6, to, floodPort, 0)
	defer flooder.end()
	var here, away got
	var ratios []float64
	for i := range *rounds {
		order := []string{"away", "here"}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		pair := map[string]got{}
		for _, where := range order {
			g, sent := m.flooded(flooder, where)
			pair[where] = g
			if *each {
				t.Logf("%-9s %s  %v; %s", kind, where, g, sent)
			}
		}
		here.add(pair["here"])
		away.add(pair["away"])
		ratios = append(ratios, pair["here"].mbits[0]/pair["away"].mbits[0])
		flooder.ask("off")
		time.Sleep(time.Second)
	}
	report(t, kind, ratios, here, away)
}

// report prints a row, and judges it.
func report(t *testing.T, kind string, ratios []float64, here, away got) {
	t.Helper()
	t.Logf("%-12s stream %.2f (%.2f to %.2f; away %.0f to %.0f Mbit/s), load %s", kind, part(ratios, 0.5), slices.Min(ratios), slices.Max(ratios),
		slices.Min(away.mbits), slices.Max(away.mbits), loadAverage())
	const slice = 4 // a time slice of the scheduler, and a bit
	rows := []struct {
		what       string
		here, away []float64
		most       float64 // ms that are no trouble at any rate
	}{
		{"round trips", here.plain, away.plain, slice}, {"with options", here.options, away.options, slice}, {"upload", here.up, away.up, 200},
		{"download", here.down, away.down, 200}, {"names", here.dns, away.dns, 100},
	}
	for _, r := range rows {
		a, b := part(r.here, 0.99), part(r.away, 0.99)
		t.Logf("%-12s   %-12s p99 %.2f times as long; %s of %s away", "", r.what, a/b, spread(r.here), spread(r.away))
		if *strict && a > 2*b && a > r.most*1e3 {
			t.Errorf("%s: %s: the 99th percentile is %.1f times as long", kind, r.what, a/b)
		}
	}
	if *strict && part(ratios, 0.5) < 0.9 {
		t.Errorf("%s: a stream keeps %.2f", kind, part(ratios, 0.5))
	}
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(b))[:1], "")
}

// confine gives this process and all that it starts a cgroup of their own, so that a busy
// machine takes less part in what is measured.
func confine(t *testing.T, shares int) {
	t.Helper()
	dir, file := "/sys/fs/cgroup/cpu", "cpu.shares"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		dir, file, shares = "/sys/fs/cgroup", "cpu.weight", min(max(shares*100/1024, 1), 10000)
	}
	parent := dir
	dir = filepath.Join(dir, fmt.Sprintf("natless-overload-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(dir, file string, value int) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(value)), 0); err != nil {
			t.Fatal(err)
		}
	}
	write(dir, file, shares)
	write(dir, "cgroup.procs", os.Getpid())
	t.Cleanup(func() {
		write(parent, "cgroup.procs", os.Getpid())
		for range 100 {
			if os.Remove(dir) == nil {
				return
			}
			runtime.Gosched()
			time.Sleep(20 * time.Millisecond)
		}
		t.Error("the cgroup is there still")
	})
}
