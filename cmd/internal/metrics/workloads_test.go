//go:build linux

package metrics

import (
	"fmt"
	"iter"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
)

// assignments has workloads by serial, and each in the slot of its serial.
type assignments map[uint64]*registry.Assignment

func assigned(n int) assignments {
	all := assignments{}
	for i := range n {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
		all[uint64(i+1)] = &registry.Assignment{Serial: uint64(i + 1), Key: api.Key{ContainerID: fmt.Sprintf("c%d", i+1), Interface: "eth0"},
			Request: api.Request{Name: fmt.Sprintf("ns/%d", i+1), IPv6: []netip.Addr{a}}, Since: time.Unix(int64(i), 0)}
	}
	return all
}

func (all assignments) find(serial uint64) (*registry.Assignment, error) {
	if a := all[serial]; a != nil {
		return a, nil
	}
	return nil, registry.ErrNotFound
}

func (all assignments) places() iter.Seq[accounting.Place] {
	return func(yield func(accounting.Place) bool) {
		for serial := range all {
			if !yield(accounting.Place{Serial: serial, Slot: uint32(serial)}) {
				return
			}
		}
	}
}

func used(slot uint32) accounting.Usage {
	n := uint64(slot)
	return accounting.Usage{Sent: accounting.Count{Packets: n, Bytes: 100 * n}, Received: accounting.Count{Packets: 2 * n, Bytes: 300 * n}, Violations: n}
}

// The oldest have series by the name and key that they have now, the others one
// together, and who has gone has none.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	all := assigned(4)
	all[2].Request.Name = "bad \xff name"
	accounts := accounting.New(3, all.places(), used)
	w := NewWorkloads(accounts, all.find)
	problems, err := testutil.GatherAndLint(pedantic(t, w))
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	check := func(want map[row]bool) {
		t.Helper()
		rows := w.rows()
		for _, r := range rows {
			if !want[r] {
				t.Errorf("there is %+v, want %v", r, want)
			}
		}
		if len(rows) != len(want) {
			t.Errorf("%d rows, want %d", len(rows), len(want))
		}
	}
	one, three, others := row{"ns/1", "c1/eth0", used(1)}, row{"ns/3", "c3/eth0", used(3)}, row{"other", "", used(4)}
	check(map[row]bool{one: true, {"bad � name", "c2/eth0", used(2)}: true, three: true, others: true})
	renamed := *all[1]
	renamed.Request.Name = "ns/new"
	all[1], one.name = &renamed, "ns/new"
	delete(all, 2) // the registry knows it already, the accounts do not
	check(map[row]bool{one: true, three: true, others: true})
	accounts.Change(accounting.Change{Old: 2})
	check(map[row]bool{one: true, three: true, others: true})
}

// BenchmarkScrape is the whole answer to Prometheus with 10,000 workloads that
// have their own series, and the part of it that reads the accounts.
func BenchmarkScrape(b *testing.B) {
	all := assigned(10_000)
	w := NewWorkloads(accounting.New(10_000, all.places(), used), all.find)
	h := Handler(NewRegistry(&Collector{sources()}, w), slog.New(slog.DiscardHandler))
	b.Run("answer", func(b *testing.B) {
		for b.Loop() {
			r := httptest.NewRecorder()
			h.ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
			b.ReportMetric(float64(r.Body.Len()), "B/scrape")
		}
	})
	b.Run("accounts", func(b *testing.B) {
		for b.Loop() {
			w.rows()
		}
	})
}
