package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// clock is a time that tests set.
type clock struct{ time.Time }

func (c *clock) Now() time.Time          { return c.Time }
func (c *clock) advance(d time.Duration) { c.Time = c.Add(d) }

func shared(cidr string, each int) Pool {
	return Pool{Name: "default", IPv4: netip.MustParsePrefix(cidr), PortsPerWorkload: each,
		Reserved: ports.MustParse("0-1023"), Cooldown: time.Minute}
}

func start(t testing.TB, pools ...Pool) (*Registry, *clock) {
	t.Helper()
	c := &clock{time.Unix(1_700_000_000, 0)}
	r, err := Open(Options{Path: filepath.Join(t.TempDir(), "r.db"), History: 1000, Pools: pools, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, c
}

func key(n int) api.Key { return api.Key{ContainerID: fmt.Sprintf("c%06d", n), Interface: "eth0"} }

func request(n int) api.Request {
	ip := [16]byte{0x20, 0x01, 0x0d, 0xb8, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
	return api.Request{IPv6: []netip.Addr{netip.AddrFrom16(ip)}}
}

func mustPut(t testing.TB, r *Registry, n int, q api.Request) *Assignment {
	t.Helper()
	a, err := r.Put(t.Context(), key(n), q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// words is an assignment in short.
func (a *Assignment) words() string {
	if a.Ports.IsZero() {
		return a.Address.String() + " all"
	}
	return a.Address.String() + " " + a.Ports.String()
}

func TestSpreadsOverAddresses(t *testing.T) {
	r, _ := start(t, shared("198.51.100.0/30", 1024))
	on := map[netip.Addr]int{}
	for n := range 40 {
		on[mustPut(t, r, n, request(n)).Address]++
	}
	want := map[netip.Addr]int{}
	for i := range 4 {
		want[netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})] = 10
	}
	if d := cmp.Diff(want, on, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

// The headroom that is told is how many more there is room for.
func TestHeadroom(t *testing.T) {
	whole := Pool{Name: "whole", IPv4: netip.MustParsePrefix("203.0.113.0/30"), Whole: true, Cooldown: time.Minute}
	r, c := start(t, shared("198.51.100.0/31", 1024), whole)
	told := func() (int, int) { p := r.Pools(); return p[0].Headroom, p[1].Headroom }
	if a, b := told(); a != 126 || b != 4 {
		t.Fatalf("empty: %d and %d, want 126 and 4", a, b)
	}
	odd := request(1)
	odd.Ports, odd.ExtraPorts = 1, []uint16{5000} // spoils two shares of one address
	mustPut(t, r, 1, odd)
	q := request(2)
	q.Pool = "whole"
	mustPut(t, r, 2, q)
	if a, b := told(); a != 124 || b != 3 {
		t.Errorf("%d and %d, want 124 and 3", a, b)
	}
	n := 3
	for ; ; n++ {
		before, _ := told()
		if _, err := r.Put(t.Context(), key(n), request(n)); err != nil {
			if before != 0 {
				t.Errorf("exhausted with a headroom of %d", before)
			}
			break
		}
		if after, _ := told(); after != before-1 {
			t.Fatalf("headroom %d, then %d", before, after)
		}
	}
	if err := errors.Join(r.Delete(t.Context(), key(n-1)), r.Delete(t.Context(), key(2))); err != nil {
		t.Fatal(err)
	}
	if a, b := told(); a != 0 || b != 3 {
		t.Errorf("what cools down: %d and %d, want 0 and 3", a, b)
	}
	c.advance(time.Minute)
	if a, b := told(); a != 1 || b != 4 {
		t.Errorf("what has cooled down: %d and %d, want 1 and 4", a, b)
	}
}

func TestCooldown(t *testing.T) {
	r, c := start(t, shared("198.51.100.0/32", 32768))
	first := mustPut(t, r, 1, request(1)).words()
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	c.advance(59 * time.Second)
	var full *ExhaustedError
	if _, err := r.Put(t.Context(), key(2), request(2)); !errors.As(err, &full) || full.Usage.PortsCooling != 32768 {
		t.Fatalf("another workload, before the cooldown is over: %v", err)
	}
	if got := mustPut(t, r, 1, request(1)).words(); got != first {
		t.Errorf("the same workload got %s, had %s", got, first)
	}
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	if p := r.Pools()[0]; p.PortsCooling != 32768 {
		t.Errorf("given back: %+v", p)
	}
	c.advance(60 * time.Second)
	if p := r.Pools()[0]; p.PortsCooling != 0 {
		t.Errorf("after the cooldown: %+v", p)
	}
	if got := mustPut(t, r, 2, request(2)).words(); got != first {
		t.Errorf("after the cooldown: %s", got)
	}
}

// TestReturns: a workload gets its last set by its key, or by its name.
func TestReturns(t *testing.T) {
	r, c := start(t, shared("198.51.100.0/30", 1024))
	named := func(n int, name string) api.Request {
		q := request(n)
		q.Name = name
		return q
	}
	var had [8]string
	for n := range had {
		had[n] = mustPut(t, r, n, named(n, fmt.Sprintf("ns/pod-%d", n))).words()
	}
	for n := range had {
		if err := r.Delete(t.Context(), key(n)); err != nil {
			t.Fatal(err)
		}
	}
	c.advance(time.Hour)
	for _, n := range []int{5, 2, 7, 0} {
		if got := mustPut(t, r, n, request(n)).words(); got != had[n] {
			t.Errorf("workload %d got %s, had %s", n, got, had[n])
		}
	}
	for _, n := range []int{6, 1} { // another container in the same pod
		if got := mustPut(t, r, n+100, named(n+100, fmt.Sprintf("ns/pod-%d", n))).words(); got != had[n] {
			t.Errorf("pod %d got %s, had %s", n, got, had[n])
		}
	}
}

func TestRequests(t *testing.T) {
	host := Pool{Name: "host", IPv4: netip.MustParsePrefix("192.0.2.10/32"), Uplink: true,
		Ports: ports.MustParse("32768-65535"), PortsPerWorkload: 512}
	dedicated := Pool{Name: "dedicated", IPv4: netip.MustParsePrefix("203.0.113.0/31"), Whole: true}
	r, _ := start(t, shared("198.51.100.0/31", 1000), dedicated, host)
	for n, c := range []struct {
		change func(*api.Request)
		want   string // address and ports, or the error
	}{
		{func(q *api.Request) {}, "198.51.100.0 1024-2047"},
		{func(q *api.Request) { q.Ports = 3000 }, "198.51.100.1 4096-8191"},
		{func(q *api.Request) { q.Ports = 16 }, "198.51.100.0 2048-2063"},
		{func(q *api.Request) { q.ExtraPorts = []uint16{443, 2080, 80} }, "198.51.100.0 80,443,2080,3072-4095"},
		{func(q *api.Request) { q.ExtraPorts = []uint16{443} }, "198.51.100.1 443,1024-2047"},
		{func(q *api.Request) { q.ExtraPorts = []uint16{443} }, `pool "default" is exhausted: no 1024 ports in a row with [443] besides free; 5 workloads have 7188 of 129027 ports on 2 addresses, 0 more cool down: free a workload, or add addresses to the pool, or lower ports_per_workload for new workloads`},
		{func(q *api.Request) { q.ExtraPorts, q.Address = []uint16{443}, netip.MustParseAddr("198.51.100.1") }, "198.51.100.1:443 belongs to workload c000004/eth0 (pod-4)"},
		{func(q *api.Request) { q.ExtraPorts = []uint16{3000} }, "198.51.100.0 3000,4096-5119"},
		{func(q *api.Request) { q.Address = netip.MustParseAddr("198.51.100.1") }, "198.51.100.1 2048-3071"},
		{func(q *api.Request) { q.Address = netip.MustParseAddr("203.0.113.1") }, "203.0.113.1 all"},
		{func(q *api.Request) { q.Address = netip.MustParseAddr("203.0.113.1") }, "203.0.113.1 belongs to workload c000009/eth0 (pod-9)"},
		{func(q *api.Request) { q.Pool, q.Ports, q.ExtraPorts = "dedicated", 5, []uint16{443} }, "203.0.113.0 all"},
		{func(q *api.Request) { q.Pool = "dedicated" }, `pool "dedicated" is exhausted: no whole address free; 2 workloads have 131072 of 131072 ports on 2 addresses, 0 more cool down: free a workload, or add addresses to the pool`},
		{func(q *api.Request) { q.Pool = "host" }, "192.0.2.10 32768-33279"},
		{func(q *api.Request) { q.Pool, q.ExtraPorts = "host", []uint16{40000} }, "192.0.2.10 33280-33791,40000"},
		{func(q *api.Request) { q.Pool, q.ExtraPorts = "host", []uint16{443} }, `extra_ports: 443 is not among the ports that pool "host" may give away`},
		{func(q *api.Request) { q.Pool, q.Ports = "host", 40000 }, `ports: 40000 are more than pool "host" has in a row on any address, which is 32768`},
		{func(q *api.Request) { q.Pool = "nosuch" }, `pool: there is no pool "nosuch": there are default, dedicated, host`},
		{func(q *api.Request) { q.Pool, q.Address = "host", netip.MustParseAddr("198.51.100.1") }, `address: 198.51.100.1 is not in pool "host" (192.0.2.10/32)`},
		{func(q *api.Request) { q.Address = netip.MustParseAddr("8.8.8.8") }, "address: 8.8.8.8 is in no pool"},
		{func(q *api.Request) { q.Address = netip.MustParseAddr("::8") }, "address: ::8 is no IPv4 address"},
		{func(q *api.Request) { q.IPv6 = nil }, "ipv6: is missing: the workload needs an IPv6 address"},
		{func(q *api.Request) { q.IPv6 = append(q.IPv6, netip.MustParseAddr("fe80::1")) }, "ipv6[1]: fe80::1 is no IPv6 unicast address that can be routed"},
		{func(q *api.Request) { q.IPv6 = append(q.IPv6, q.IPv6[0]) }, "ipv6[1]: 2001:db8::18 is there twice"},
		{func(q *api.Request) { q.IPv6 = request(3).IPv6 }, "2001:db8::3 belongs to workload c000002/eth0 (pod-2)"},
		{func(q *api.Request) { q.Ports = -1 }, "ports: -1 is not between 0 and 65536"},
		{func(q *api.Request) { q.ExtraPorts = []uint16{0} }, "extra_ports: must be different ports from 1 to 65535"},
		{func(q *api.Request) { q.ExtraPorts = []uint16{5, 5} }, "extra_ports: must be different ports from 1 to 65535"},
		{func(q *api.Request) { q.ExtraPorts = make([]uint16, 65) }, "extra_ports: has 65 ports, the limit is 64"},
		{func(q *api.Request) { q.Name = "a\nb" }, "name: must be at most 512 bytes of printable text"},
		{func(q *api.Request) { q.Netns = "relative" }, "netns: must be an absolute path"},
	} {
		q := request(n + 1)
		q.Name = fmt.Sprintf("pod-%d", n)
		c.change(&q)
		a, err := r.Put(t.Context(), key(n), q)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = a.words()
		}
		if got != c.want {
			t.Errorf("case %d:\n got %s\nwant %s", n, got, c.want)
		}
	}
	for _, k := range []api.Key{{}, {ContainerID: "a/b", Interface: "eth0"}, {ContainerID: "-a", Interface: "eth0"}, {ContainerID: "a", Interface: "sixteen-letters-"}, {ContainerID: strings.Repeat("a", 129), Interface: "e"}} {
		var wrong *FieldError
		if _, err := r.Put(t.Context(), k, request(1000)); !errors.As(err, &wrong) {
			t.Errorf("key %v: %v", k, err)
		}
	}
}

// TestPutAgain: what a second put of the same workload changes, and what not.
func TestPutAgain(t *testing.T) {
	var log []string
	word := func(a *Assignment) string {
		if a == nil {
			return "-"
		}
		return a.words() + " " + a.Request.IPv6[0].String()
	}
	c := &clock{time.Unix(1_700_000_000, 0)}
	r, err := Open(Options{Path: filepath.Join(t.TempDir(), "r.db"), History: 100, Pools: []Pool{shared("198.51.100.0/32", 1024)}, Now: c.Now,
		Sink: func(_ context.Context, ch Change) error {
			log = append(log, word(ch.Old)+" → "+word(ch.New))
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	q := request(1)
	for range 2 {
		mustPut(t, r, 1, q)
	}
	q.Name, q.Netns = "ns/a", "/run/netns/a"
	c.advance(time.Second)
	if a := mustPut(t, r, 1, q); a.Request.Name != "ns/a" || a.Since.Equal(c.Time) {
		t.Errorf("new name: %+v", a)
	}
	q.HostInterface = "veth1" // another one, as after a reboot
	mustPut(t, r, 1, q)
	if a, err := r.Get(key(1)); err != nil || a.Request.HostInterface != "veth1" {
		t.Errorf("new interface: %+v, %v", a, err)
	}
	q.IPv6 = request(2).IPv6
	mustPut(t, r, 1, q)
	q.Ports = 1024 // what it has
	mustPut(t, r, 1, q)
	q.Ports = 2048
	mustPut(t, r, 1, q)
	q.Ports = 0 // what it had
	mustPut(t, r, 1, q)
	if err := r.Delete(t.Context(), key(1)); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), key(1)); !errors.Is(err, ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
	want := []string{
		"- → 198.51.100.0 1024-2047 2001:db8::1",
		"198.51.100.0 1024-2047 2001:db8::1 → 198.51.100.0 1024-2047 2001:db8::2",
		"198.51.100.0 1024-2047 2001:db8::2 → 198.51.100.0 2048-4095 2001:db8::2",
		"198.51.100.0 2048-4095 2001:db8::2 → 198.51.100.0 1024-2047 2001:db8::2",
		"198.51.100.0 1024-2047 2001:db8::2 → -",
	}
	if d := cmp.Diff(want, log); d != "" {
		t.Error(d)
	}
}

// TestConcurrent: many at once share commits, and none of them ports.
func TestConcurrent(t *testing.T) {
	r, _ := start(t, shared("198.51.100.0/29", 512))
	before := r.db.Stats()
	var wg sync.WaitGroup
	for n := range 400 {
		wg.Go(func() {
			for range 2 {
				mustPut(t, r, n, request(n))
			}
			if n%2 == 0 {
				if err := r.Delete(t.Context(), key(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if r.Len() != 200 {
		t.Errorf("%d assignments, want 200", r.Len())
	}
	after := r.db.Stats()
	writes := after.Sub(&before)
	t.Logf("%d changes in %d writes to disk", 600, writes.TxStats.GetWrite())
}

func TestHistoryIsBounded(t *testing.T) {
	r, c := start(t, shared("198.51.100.0/32", 1024))
	if err := reconfigure(r, []Pool{shared("198.51.100.0/32", 1024)}, 10, func(iter.Seq[mapping.Mapping], []Share) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for n := range 30 {
		mustPut(t, r, n, request(n))
		c.advance(time.Second)
		if err := r.Delete(t.Context(), key(n)); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Hour)
	}
	var found []string
	for i := range 30 {
		at := time.Unix(1_700_000_000, 0).Add(time.Duration(i) * (time.Hour + time.Second))
		if a, err := r.Whois(netip.MustParseAddrPort("198.51.100.0:1024"), at); err == nil {
			found = append(found, a.Key.ContainerID)
		}
	}
	var want []string
	for n := 20; n < 30; n++ {
		want = append(want, key(n).ContainerID)
	}
	if !slices.Equal(found, want) {
		t.Errorf("history has %v, want %v", found, want)
	}
}

// TestRefusedBySink: nobody keeps what the table does not have.
func TestRefusedBySink(t *testing.T) {
	r, _ := start(t, shared("198.51.100.0/32", 1024))
	refuse := errors.New("no")
	r.SetSink(func(Change) error { return refuse }, r.sink)
	if _, err := r.Put(t.Context(), key(1), request(1)); !errors.Is(err, refuse) || r.Len() != 0 {
		t.Errorf("refused by check: %v, %d assignments", err, r.Len())
	}
	r.SetSink(func(Change) error { return nil }, func(context.Context, Change) error { return refuse })
	if _, err := r.Put(t.Context(), key(1), request(1)); !errors.Is(err, refuse) || r.Len() != 0 {
		t.Errorf("refused by sink: %v, %d assignments", err, r.Len())
	}
	r.SetSink(func(Change) error { return nil }, func(context.Context, Change) error { return nil })
	mustPut(t, r, 2, request(1))
}

func TestReconcile(t *testing.T) {
	r, c := start(t, shared("198.51.100.0/30", 1024))
	put := func(n int, netns string) {
		q := request(n)
		q.Netns = netns
		mustPut(t, r, n, q)
	}
	put(1, "/run/netns/alive")
	put(2, "/run/netns/gone")
	put(3, "")
	put(4, "/run/netns/returns")
	freed, err := r.Reconcile(t.Context(), func(context.Context) (func(string) bool, error) {
		// Between the two lists: a new workload, and one that comes again.
		c.advance(time.Second)
		put(5, "/run/netns/new")
		q := request(44)
		q.Netns = "/run/netns/returns"
		mustPut(t, r, 4, q)
		return func(path string) bool { return path == "/run/netns/alive" }, nil
	})
	if err != nil || len(freed) != 1 || freed[0].Key != key(2) || r.Len() != 4 {
		t.Errorf("freed %v, %v; %d are left", freed, err, r.Len())
	}
}

// TestReconfigure: pools change under workloads that stay.
func TestReconfigure(t *testing.T) {
	host := Pool{Name: "host", IPv4: netip.MustParsePrefix("192.0.2.10/32"), Uplink: true, PortsPerWorkload: 512, Cooldown: time.Second}
	r, _ := start(t, shared("198.51.100.0/32", 1024), host)
	mustPut(t, r, 1, request(1))
	q := request(2)
	q.Pool = "host"
	had := mustPut(t, r, 2, q)

	refuse := errors.New("no")
	host.IPv4 = netip.MustParsePrefix("192.0.2.77/32")
	if err := reconfigure(r, []Pool{host}, 10, func(iter.Seq[mapping.Mapping], []Share) error { return refuse }); !errors.Is(err, refuse) {
		t.Fatal(err)
	}
	if a, err := r.Get(key(2)); err != nil || a.words() != had.words() || len(r.Pools()) != 2 {
		t.Errorf("after a refused change: %v, %v, %d pools", a, err, len(r.Pools()))
	}
	var swapped []mapping.Mapping
	if err := reconfigure(r, []Pool{host}, 10, func(all iter.Seq[mapping.Mapping], _ []Share) error { swapped = slices.Collect(all); return nil }); err != nil {
		t.Fatal(err)
	}
	if a, err := r.Get(key(2)); err != nil || a.words() != "192.0.2.77 512-1023" || len(swapped) != 2 {
		t.Errorf("on the new uplink address: %v, %v, swapped %v", a, err, swapped)
	}
	if a, err := r.Get(key(1)); err != nil || a.words() != "198.51.100.0 1024-2047" {
		t.Errorf("of a pool that is gone: %v, %v", a, err)
	}
	if a := mustPut(t, r, 1, request(1)); a.words() != "198.51.100.0 1024-2047" {
		t.Errorf("put again without its pool: %s", a.words())
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	r, _ := start(t, shared("198.51.100.0/32", 1024))
	_, err := Open(Options{Path: r.db.Path()})
	if err == nil || !strings.Contains(err.Error(), "is natlessd running already?") {
		t.Error(err)
	}
}
