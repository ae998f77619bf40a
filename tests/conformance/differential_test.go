package conformance

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/generate"
	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
)

// The flags of a long run (make differential). A failure names the seed and the
// episode that repeat it, with -packets 1.
var (
	packetsFlag = flag.Int64("packets", 500_000, "how many packets TestDifferential translates")
	seedFlag    = flag.Uint64("seed", 7915, "what decides them")
	episodeFlag = flag.Uint64("episode", 0, "the episode that it starts with")
)

// comparison is a run of TestDifferential: episodes, dealt out to all processors.
type comparison struct {
	worlds  []generate.World
	wanted  int64         // packets
	next    atomic.Uint64 // episode
	packets atomic.Int64
	ended   atomic.Bool // before its time
	began   time.Time
	cpu     time.Duration

	mu       sync.Mutex
	verdicts [2][256]int64
	rules    map[string]int
	failures map[string]string // by kind: the first of each
	differ   int
}

// TestDifferential translates generated packets with both translators.
func TestDifferential(t *testing.T) {
	c := compareIn(t, generate.AllWorlds(), *packetsFlag)
	if t.Failed() || *packetsFlag < 400_000 {
		return
	}
	for v := range translator.NumVerdicts {
		if c.count(v)+c.count(v|translator.Replied) == 0 && v != translator.Shed { // which is not the translator's
			t.Errorf("no packet got the verdict %v", v)
		}
	}
	c.met(t, func(rule string) bool { return !strings.HasPrefix(rule, edgeRules) })
}

// edgeRules are of the host's edge.
const edgeRules = "1.10."

// TestDifferentialEdge is TestDifferential where there is an edge: both halves in a row.
func TestDifferentialEdge(t *testing.T) {
	c := compareIn(t, generate.EdgeWorlds(), *packetsFlag*2/5)
	if t.Failed() || *packetsFlag < 400_000 {
		return
	}
	c.met(t, func(rule string) bool { return strings.HasPrefix(rule, edgeRules) })
}

// met wants packets to have come under the rules of a kind.
func (c *comparison) met(t *testing.T, of func(rule string) bool) {
	t.Helper()
	for _, rule := range reference.RuleNames() {
		if of(rule) && c.rules[rule] == 0 {
			t.Errorf("no packet came under rule %s", rule)
		}
	}
}

// compareIn translates packets of some worlds with both translators.
func compareIn(t *testing.T, worlds []generate.World, packets int64) *comparison {
	t.Helper()
	// Little is alive and much is thrown away: collect seldom.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	c := &comparison{worlds: worlds, wanted: packets, began: time.Now(), cpu: cpuTime(), rules: map[string]int{}, failures: map[string]string{}}
	c.next.Store(*episodeFlag)
	stop := make(chan struct{})
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	defer signal.Stop(interrupted)
	go c.progress(stop, interrupted)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		var pairs []*episode
		for _, w := range c.worlds {
			pairs = append(pairs, newEpisodes(newPair(t, w)))
		}
		wait.Go(func() { c.work(pairs) })
	}
	wait.Wait()
	close(stop)
	t.Log(c.summary())
	for _, text := range c.failures {
		t.Error(text)
	}
	return c
}

// work takes episodes until enough packets are translated, or too many failed.
func (c *comparison) work(pairs []*episode) {
	for c.packets.Load() < c.wanted && !c.ended.Load() {
		number := c.next.Add(1) - 1
		e := pairs[number%uint64(len(pairs))]
		e.packets, e.verdicts = 0, [2][256]int64{}
		var rules map[string]int
		if number < 200 || number%64 == 0 {
			rules = map[string]int{}
		}
		err := e.run(*seedFlag, number, rules)
		c.packets.Add(e.packets)
		if c.add(e, rules, number, err) > 50 {
			return
		}
	}
}

// add adds what an episode has met, and says how many kinds of differences there
// are by now.
func (c *comparison) add(e *episode, rules map[string]int, number uint64, err error) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for from := range e.verdicts {
		for v, n := range e.verdicts[from] {
			c.verdicts[from][v] += n
		}
	}
	for rule, n := range rules {
		c.rules[rule] += n
	}
	if err == nil {
		return len(c.failures)
	}
	c.differ++
	kind := err.(*difference).kind
	if c.failures[kind] == "" {
		c.failures[kind] = fmt.Sprintf("%s\nrepeat with -seed %d -episode %d -packets 1\n%s", kind, *seedFlag, number,
			shrunk(e.world, *seedFlag, number))
		fmt.Fprintln(os.Stderr, c.failures[kind])
	}
	return len(c.failures)
}

func (c *comparison) count(v translator.Verdict) int64 { return c.verdicts[0][v] + c.verdicts[1][v] }

// progress tells of a long run.
func (c *comparison) progress(stop <-chan struct{}, interrupted <-chan os.Signal) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-interrupted:
			c.ended.Store(true)
			continue
		case <-tick.C:
		}
		n, took := c.packets.Load(), time.Since(c.began)
		rate := float64(n) / took.Seconds()
		c.mu.Lock()
		differ := c.differ
		c.mu.Unlock()
		fmt.Fprintf(os.Stderr, "%d packets, %.0f a second, %v left, %d differences\n", n, rate,
			time.Duration(float64(c.wanted-n)/rate*float64(time.Second)).Round(time.Second), differ)
	}
}

// cpuTime is what this process has had of the processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (c *comparison) summary() string {
	n, took, cpu := c.packets.Load(), time.Since(c.began), cpuTime()-c.cpu
	out := fmt.Sprintf("seed %d, episodes %d to %d: %d packets in %v, %.0f a second, %.2f µs of a CPU each, %d differences\n",
		*seedFlag, *episodeFlag, c.next.Load()-1, n, took.Round(time.Millisecond), float64(n)/took.Seconds(),
		float64(cpu.Microseconds())/float64(n), c.differ)
	var lines []string
	for v := range 256 {
		if from6, from4 := c.verdicts[0][v], c.verdicts[1][v]; from6+from4 > 0 {
			lines = append(lines, fmt.Sprintf("%-34v %12d from IPv6 %12d from IPv4", translator.Verdict(v), from6, from4))
		}
	}
	slices.Sort(lines)
	return out + strings.Join(lines, "\n")
}
