//go:build linux

package overload

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

var (
	figures = flag.Bool("figures", false, "measure, and judge")
	length  = flag.Duration("length", 2*time.Second, "of one measurement")
	rounds  = flag.Int("rounds", 1, "")
	which   = flag.String("kinds", strings.Join(kinds, ","), "")
	more    = flag.String("config", "", "lines of the daemon's configuration")
	crowd   = flag.Int("crowd", 0, "how many workloads there are besides")
	strict  = flag.Bool("strict", false, "fail where a neighbour gets less than he should")
	verbose = flag.Bool("log", false, "show the daemon's log")
)

// got is what a neighbour gets: of a stream, and of round trips whose packets are plain,
// and of others that the fast path leaves to the daemon.
type got struct {
	mbits, again float64
	plain, other trips
}

type trips struct{ asked, answered, p50, p99 float64 }

func (t trips) String() string {
	return fmt.Sprintf("%.0f of %.0f, median %.0f, p99 %.0f µs", t.answered, t.asked, t.p50, t.p99)
}

func (g got) String() string {
	return fmt.Sprintf("%.0f Mbit/s, %.0f again; plain %v; other %v", g.mbits, g.again, g.plain, g.other)
}

func (n *topology) measure(length time.Duration) (g got) {
	var bytes, seconds float64
	fmt.Sscan(n.role(n.quiet, "stream", server6, quietPort, length)(), &bytes, &seconds, &g.again)
	g.mbits = bytes * 8 / seconds / 1e6
	for i, t := range []*trips{&g.plain, &g.other} {
		fmt.Sscan(n.role(n.quiet, "ping", server6, quietPort+1+i, length/2, i == 1)(), &t.asked, &t.answered, &t.p50, &t.p99)
	}
	return g
}

// flooded is what a neighbour gets while a flooder sends to an address.
func (n *topology) flooded(kind, to string, length time.Duration) (got, string) {
	end := n.role(n.flooder, "flood", kind, flooder6, to, floodPort)
	time.Sleep(time.Second / 2) // the governor has noticed
	g := n.measure(length)
	return g, strings.TrimSpace(end())
}

func TestMeasure(t *testing.T) {
	if !*figures {
		t.Skip("make overload")
	}
	netns.Require(t, netns.Root)
	n := newTopology(t, *crowd, *more+"\n")
	n.role(n.server, "serve")
	if *verbose {
		defer func() { t.Log(n.daemon.Log()) }()
	}
	for _, kind := range strings.Split(*which, ",") {
		to := server6
		if kind == "own" {
			to = own6
		}
		var ratios, plain, other, plainBase, otherBase []float64
		for range *rounds {
			away, sentAway := n.flooded(kind, nowhere6, *length)
			here, sent := n.flooded(kind, to, *length)
			t.Logf("%-10s away  %v; %s sent", kind, away, sentAway)
			t.Logf("%-10s here  %v; %s sent", kind, here, sent)
			ratios = append(ratios, here.mbits/away.mbits)
			plain, other = append(plain, here.plain.p99), append(other, here.other.p99)
			plainBase, otherBase = append(plainBase, away.plain.p99), append(otherBase, away.other.p99)
		}
		if *strict {
			judge(t, kind, median(ratios), median(plain)/median(plainBase), median(other)/median(otherBase))
		}
		t.Logf("%-10s RATIO %.2f of the stream; p99 %.0f of %.0f µs, other %.0f of %.0f µs", kind, median(ratios), median(plain), median(plainBase), median(other), median(otherBase))
	}
}

// judge holds a neighbour's figures against those beside a flooder that sends to nowhere.
func judge(t *testing.T, kind string, stream, plain, other float64) {
	t.Helper()
	if stream < 0.9 {
		t.Errorf("%s: a stream keeps %.2f", kind, stream)
	}
	if plain > 2 || other > 2 {
		t.Errorf("%s: the 99th percentile of round trips is %.1f and %.1f times as long", kind, plain, other)
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}
