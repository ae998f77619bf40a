//go:build linux

package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/dataplane"
)

// slots is a table and what is counted in it: who has which slot, and how often
// each was used, whoever had it.
type slots struct {
	of    map[netip.Addr]int
	count [64]Usage
}

func (s *slots) usage(a netip.Addr) Usage {
	i, ok := s.of[a]
	if !ok {
		return Usage{}
	}
	return s.count[i]
}

func (s *slots) free(r *rand.Rand) int {
	for {
		i, taken := r.IntN(len(s.count)), false
		for _, j := range s.of {
			taken = taken || i == j
		}
		if !taken {
			return i
		}
	}
}

func assignment(i, life int) *registry.Assignment {
	a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
	return &registry.Assignment{Key: api.Key{ContainerID: fmt.Sprintf("c%d.%d", i, life), Interface: "eth0"},
		Request: api.Request{Name: fmt.Sprintf("ns/%d", i), IPv6: []netip.Addr{a}}, Since: time.Unix(int64(life), 0)}
}

func used(n uint64) Usage {
	return Usage{Traffic: dataplane.Traffic{Sent: dataplane.Count{Packets: n, Bytes: 100 * n}, Received: dataplane.Count{Packets: 2 * n, Bytes: 300 * n}}, Violations: uint32(n)}
}

// Whatever comes, goes, and is numbered anew: every workload has what it used
// and nothing of another's, and what the others used together is kept.
func TestWorkloadsByModel(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	s := &slots{of: map[netip.Addr]int{}}
	for i := range s.count { // what was before; Violations is close to its end
		s.count[i] = used(uint64(1<<32 - 1 - r.IntN(50)))
	}
	const most = 3
	w := NewWorkloads(most, nil, s.usage)
	type life struct {
		*registry.Assignment
		used  uint64
		shown bool
	}
	live, shown, others := map[int]*life{}, 0, uint64(0)
	ended := errors.New("no")
	for step := range 20000 {
		i := r.IntN(20)
		l := live[i]
		switch what := r.IntN(10); {
		case l == nil:
			l = &life{Assignment: assignment(i, step), shown: shown < most}
			err := w.Change(registry.Change{New: l.Assignment}, func() error {
				if what == 0 {
					return ended
				}
				s.of[l.Request.IPv6[0]] = s.free(r)
				return nil
			})
			if err == nil {
				live[i] = l
				if l.shown {
					shown++
				}
			}
		case what == 0: // goes
			if err := w.Change(registry.Change{Old: l.Assignment}, func() error { delete(s.of, l.Request.IPv6[0]); return nil }); err != nil {
				t.Fatal(err)
			}
			delete(live, i)
			if l.shown {
				shown--
			}
		case what == 1: // gets something else
			next := *l.Assignment
			if err := w.Change(registry.Change{Old: l.Assignment, New: &next}, func() error { s.of[l.Request.IPv6[0]] = s.free(r); return nil }); err != nil {
				t.Fatal(err)
			}
			l.Assignment = &next
		case what == 2:
			w.Renumber(func() error {
				old := s.of
				s.of = map[netip.Addr]int{}
				for a := range old {
					s.of[a] = s.free(r)
				}
				return nil
			})
		default:
			n := uint64(r.IntN(20))
			at := s.of[l.Request.IPv6[0]]
			s.count[at], l.used = s.count[at].plus(used(n)), l.used+n
			if !l.shown {
				others += n
			}
		}
		if step%10 != 0 {
			continue
		}
		want := map[string]Usage{"": used(others)}
		for _, l := range live {
			if l.shown {
				want[l.Key.String()] = used(l.used)
			}
			if got := w.Violations(l.Key); got != uint32(l.used) {
				t.Fatalf("step %d: %s has %d violations, want %d", step, l.Key, got, l.used)
			}
		}
		rows := w.rows()
		for _, row := range rows {
			if row.Usage != want[row.key] {
				t.Fatalf("step %d: %q used %+v, want %+v", step, row.key, row.Usage, want[row.key])
			}
		}
		if len(rows) != len(want) {
			t.Fatalf("step %d: %d rows, want %d", step, len(rows), len(want))
		}
	}
}

func TestWorkloadsLint(t *testing.T) {
	s := &slots{of: map[netip.Addr]int{}}
	there := []*registry.Assignment{assignment(2, 2), assignment(1, 1), assignment(3, 3)}
	there[1].Request.Name = "bad \xff name"
	for i, a := range there {
		s.of[a.Request.IPv6[0]], s.count[i] = i, used(uint64(1+i))
	}
	w := NewWorkloads(2, there, s.usage)
	problems, err := testutil.GatherAndLint(pedantic(t, w))
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	for _, r := range w.rows() {
		if r.key == "c3.3/eth0" {
			t.Error("the youngest is shown, and an older one not")
		}
	}
}

// 10,000 workloads, changing while they are scraped.
func TestWorkloadsConcurrently(t *testing.T) {
	var there []*registry.Assignment
	for i := range 10_000 {
		a := assignment(0, i)
		a.Request.IPv6 = []netip.Addr{netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)})}
		there = append(there, a)
	}
	w := NewWorkloads(10_000, there, func(netip.Addr) Usage { return used(7) })
	reg := pedantic(t, w)
	ctx, stop := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			a := there[i%len(there)]
			w.Change(registry.Change{Old: a}, func() error { return nil })
			w.Change(registry.Change{New: a}, func() error { return nil })
			if i%1000 == 0 {
				w.Renumber(func() error { return nil })
			}
		}
	})
	for range 2 {
		start := time.Now()
		if _, err := reg.Gather(); err != nil {
			t.Error(err)
		}
		t.Logf("a scrape of 10,000 workloads: %v", time.Since(start))
	}
	stop()
	changing.Wait()
}

// BenchmarkScrape is the whole answer to Prometheus with 10,000 workloads that
// have their own series, and the part of it that changes wait for.
func BenchmarkScrape(b *testing.B) {
	var there []*registry.Assignment
	for i := range 10_000 {
		a := assignment(0, i)
		a.Request.IPv6 = []netip.Addr{netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)})}
		there = append(there, a)
	}
	w := NewWorkloads(10_000, there, func(netip.Addr) Usage { return used(7) })
	h := Handler(NewRegistry(&Collector{sources()}, w), slog.New(slog.DiscardHandler))
	b.Run("answer", func(b *testing.B) {
		for b.Loop() {
			r := httptest.NewRecorder()
			h.ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
			b.ReportMetric(float64(r.Body.Len()), "B/scrape")
		}
	})
	b.Run("locked", func(b *testing.B) {
		for b.Loop() {
			w.rows()
		}
	})
}
