package registry

import (
	"flag"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/natless/natless/translator/mapping"
)

var workloads = flag.Int("workloads", 20_000, "assignments of TestScale")

// goalHeap is what one assignment may take in memory.
const goalHeap = 400 // bytes

// timed is how long f takes.
func timed(t *testing.T, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// middle is the 50th and the 99th of a hundred.
func middle(took []time.Duration) string {
	slices.Sort(took)
	return fmt.Sprintf("p50 %v p99 %v", took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond))
}

// resident is a line of /proc/self/status, in MB.
func resident(which string) int {
	b, _ := os.ReadFile("/proc/self/status")
	m := regexp.MustCompile(which + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return 0
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb / 1000
}

// TestScale opens a registry with very many small assignments, whose addresses
// each have few and whose pool is far from full, and changes it. What it logs are
// figures; what it holds is that memory goes with the assignments alone.
func TestScale(t *testing.T) {
	for _, ports := range []int{64, 1024} {
		t.Run(fmt.Sprintf("%d ports", ports), func(t *testing.T) { scale(t, *workloads, ports) })
	}
}

func scale(t *testing.T, n, ports int) {
	// As many addresses as it takes, and twice that; at least 64 on each.
	bits := 32
	for 1<<(32-bits)*min(64, 63*1024/ports) < n {
		bits--
	}
	pool := shared(netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), bits).String(), ports)
	pool.Cooldown = time.Minute
	r, o := fill(t, n, pool)
	r.Close()
	file, err := os.Stat(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	before := heapInUse()
	opened := timed(t, func() error { r, err = Open(o); return err })
	t.Cleanup(func() { r.Close() })
	each := int(heapInUse()-before) / n
	anonymous, all := resident("RssAnon"), resident("VmRSS")

	var puts, deletes, decisions, asked []time.Duration
	for i := range 50 {
		k, q := realistic(n + i)
		puts = append(puts, timed(t, func() error { _, err := r.Put(ctx, k, q); return err }))
		deletes = append(deletes, timed(t, func() error { return r.Delete(ctx, k) }))
	}
	r.db.NoSync = true // what the disk does not take
	for i := range 1000 {
		k, q := realistic(n + 1000 + i)
		decisions = append(decisions, timed(t, func() error { _, err := r.Put(ctx, k, q); return err }))
	}
	r.db.NoSync = false
	for i := range 1000 {
		k, _ := realistic(i * (n / 1000))
		a, err := r.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		var who *Assignment
		asked = append(asked, timed(t, func() (err error) {
			who, err = r.Whois(netip.AddrPortFrom(a.Address, a.Ports.Run(0).Last), time.Time{})
			return err
		}))
		if who.held != a.held {
			t.Fatalf("%v belongs to %v, want %v", a.Ports, who, a)
		}
	}
	kept := 0
	swap := func(all iter.Seq[mapping.Mapping], _ []Share) error {
		kept = 0
		for range all {
			kept++
		}
		return nil
	}
	same := timed(t, func() error { return reconfigure(r, o.Pools, o.History, swap) })
	more := slices.Concat(o.Pools, []Pool{{Name: "more", IPv4: netip.MustParsePrefix("198.51.100.0/24"), PortsPerWorkload: 512}})
	other := timed(t, func() error { return reconfigure(r, more, o.History, swap) })
	if kept != n+len(decisions) || r.Len() != kept {
		t.Errorf("%d mappings and %d assignments, want %d", kept, r.Len(), n+len(decisions))
	}
	t.Logf("%d assignments of %d ports in %s: file of %d MB, opened in %v; %d B each in memory, resident %d MB of which %d MB no file; "+
		"put %s, delete %s, both on disk; put without waiting for the disk %s; whois %s; reconfigured in %v, with another pool in %v",
		n, ports, pool.IPv4, file.Size()/1e6, opened.Round(time.Millisecond), each, all, anonymous,
		middle(puts), middle(deletes), middle(decisions), middle(asked), same.Round(time.Millisecond), other.Round(time.Millisecond))
	if each > goalHeap {
		t.Errorf("an assignment takes %d B, want %d at most", each, goalHeap)
	}
}
