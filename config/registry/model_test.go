package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/ports"
)

// model is a registry as naive as can be: an owner for every single port.
type model struct {
	t      *testing.T
	now    time.Time
	pools  []Pool
	ports  map[netip.Addr]*[maxPorts]port
	have   map[api.Key]*Assignment
	past   []Assignment
	serial uint64          // the highest that was given
	table  map[string]bool // mappings as the translator would have them
	report func() string
}

type port struct {
	owner   api.Key // zero: nobody
	cooling time.Time
	cooler  api.Key
}

func (m *model) at(a netip.Addr) *[maxPorts]port {
	if m.ports[a] == nil {
		m.ports[a] = new([maxPorts]port)
	}
	return m.ports[a]
}

func (m *model) pool(name string) Pool {
	return m.pools[slices.IndexFunc(m.pools, func(p Pool) bool { return p.Name == name })]
}

// every calls f for each port of an assignment.
func (m *model) every(a *Assignment, f func(n int, p *port)) {
	set := a.Ports
	if set.IsZero() {
		set = ports.All()
	}
	for n := range set.Ports() {
		f(int(n), &m.at(a.Address)[n])
	}
}

// sink is told of every change by the registry.
func (m *model) sink(_ context.Context, c Change) error {
	if old := c.Old; old != nil {
		same := c.New != nil && c.New.Address == old.Address && c.New.Ports.Equal(old.Ports)
		m.every(old, func(n int, p *port) {
			if p.owner != old.Key {
				m.t.Fatalf("%s gives back port %d of %s, which %s has\n%s", old.Key, n, old.Address, p.owner, m.report())
			}
			*p = port{cooling: m.now.Add(m.pool(old.Pool).Cooldown), cooler: old.Key}
			if same {
				*p = port{}
			}
		})
		ended := *old
		ended.Until = m.now
		m.past = append(m.past, ended)
		delete(m.have, old.Key)
		delete(m.table, fmt.Sprint(old.Mapping()))
	}
	if a := c.New; a != nil {
		m.claim(a)
		succeeds := uint64(0)
		if c.Old != nil {
			succeeds = c.Old.Serial
		}
		if a.Serial <= m.serial || a.Succeeds != succeeds {
			m.t.Fatalf("serial %d after %d, which succeeds %d, want %d\n%s", a.Serial, m.serial, a.Succeeds, succeeds, m.report())
		}
		m.serial = a.Serial
		m.have[a.Key] = a
		m.table[fmt.Sprint(a.Mapping())] = true
	}
	return nil
}

// claim checks a new assignment port by port.
func (m *model) claim(a *Assignment) {
	pool := m.pool(a.Pool)
	if !pool.IPv4.Contains(a.Address) {
		m.t.Fatalf("%s got %s, which is not in pool %s", a.Key, a.Address, a.Pool)
	}
	n := 0
	m.every(a, func(i int, p *port) {
		n++
		switch extra := slices.Contains(a.Request.ExtraPorts, uint16(i)); {
		case p.owner != (api.Key{}):
			m.t.Fatalf("%s gets port %d of %s, which %s has\n%s", a.Key, i, a.Address, p.owner, m.report())
		case p.cooling.After(m.now) && p.cooler != a.Key:
			m.t.Fatalf("%s gets port %d of %s, which %s had and cools down\n%s", a.Key, i, a.Address, p.cooler, m.report())
		case !pool.Whole && (i == 0 || i < lowest(pool)):
			m.t.Fatalf("%s gets port %d, which pool %s must not give", a.Key, i, a.Pool)
		case !pool.Whole && !extra && pool.Reserved.Contains(uint16(i)):
			m.t.Fatalf("%s gets reserved port %d", a.Key, i)
		}
		*p = port{owner: a.Key}
	})
	want := maxPorts
	if !pool.Whole {
		want = pool.PortsPerWorkload
		if a.Request.Ports > 0 {
			want = powerOfTwo(a.Request.Ports)
		}
		want += len(a.Request.ExtraPorts)
	}
	if n != want {
		m.t.Fatalf("%s gets %d ports, want %d: %v", a.Key, n, want, a)
	}
}

// runFree says whether an address of the pool has what the request wants.
func (m *model) runFree(pool Pool, k api.Key, q api.Request) bool {
	free := func(a netip.Addr, i int) bool {
		p := m.at(a)[i]
		return p.owner == (api.Key{}) && !p.cooling.After(m.now)
	}
	size := powerOfTwo(max(q.Ports, 0))
	if size == 0 {
		size = pool.PortsPerWorkload
	}
	if pool.Whole {
		size = maxPorts
	}
	for a := pool.IPv4.Addr(); pool.IPv4.Contains(a); a = a.Next() {
		if q.Address.IsValid() && q.Address != a {
			continue
		}
		all := func(first, n int, ok func(int) bool) bool {
			for i := first; i < first+n; i++ {
				if !ok(i) {
					return false
				}
			}
			return true
		}
		if slices.ContainsFunc(q.ExtraPorts, func(p uint16) bool { return !free(a, int(p)) }) && !pool.Whole {
			continue
		}
		for first := 0; first < maxPorts; first += size {
			if all(first, size, func(i int) bool {
				return free(a, i) && (pool.Whole || i > 0 && i >= lowest(pool) && !slices.Contains(q.ExtraPorts, uint16(i)) &&
					!pool.Reserved.Contains(uint16(i)))
			}) {
				return true
			}
		}
	}
	return false
}

func lowest(p Pool) int {
	return int(p.Ports.Min())
}

// whois asks the naive log.
func (m *model) whois(a netip.AddrPort, at time.Time) (k api.Key) {
	for _, h := range m.past {
		if h.Address == a.Addr() && h.has(a.Port()) && !at.Before(h.Since) && at.Before(h.Until) {
			return h.Key
		}
	}
	for _, h := range m.have {
		if h.Address == a.Addr() && h.has(a.Port()) && !at.Before(h.Since) {
			return h.Key
		}
	}
	return k
}

var modelPools = []Pool{
	{Name: "default", IPv4: netip.MustParsePrefix("198.51.100.0/31"), PortsPerWorkload: 8192, Reserved: ports.MustParse("0-1023"), Cooldown: time.Minute},
	{Name: "dedicated", IPv4: netip.MustParsePrefix("203.0.113.0/30"), Whole: true, Inside: true, Cooldown: 30 * time.Second},
	{Name: "host", IPv4: netip.MustParsePrefix("192.0.2.10/32"), Uplink: true, Ports: ports.MustParse("32768-65535"), PortsPerWorkload: 4096, Cooldown: 5 * time.Second},
}

// randomRequest often is one that was made before.
func randomRequest(rnd *rand.Rand, key int) api.Request {
	q := api.Request{IPv6: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8::%x:%x", rnd.IntN(2), key+1))}}
	q.Pool = []string{"", "default", "dedicated", "host"}[rnd.IntN(4)]
	q.Ports = []int{0, 0, 0, 64, 1000, 4096, 16, 1, 20000}[rnd.IntN(9)]
	if rnd.IntN(5) == 0 {
		q.ExtraPorts = []uint16{[]uint16{443, 80, 40000}[rnd.IntN(3)]}
	}
	if rnd.IntN(6) == 0 {
		q.Address = netip.MustParseAddr([]string{"198.51.100.0", "198.51.100.1", "203.0.113.2", "192.0.2.10"}[rnd.IntN(4)])
	}
	if q.Inside = []string{"", "", api.IPv4Inside, api.IPv4Prefix, api.IPv4ByPool}[rnd.IntN(5)]; q.Inside != "" {
		q.HostInterface = "veth1"
	}
	if rnd.IntN(2) == 0 {
		q.Name = fmt.Sprintf("ns/pod-%d", rnd.IntN(5))
	}
	return q
}

// TestModel makes random requests, passes time, crashes and restarts, and
// compares with the model after each step.
func TestModel(t *testing.T) {
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); runModel(t, seed, steps) })
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 3))
	dir := t.TempDir()
	m := &model{t: t, now: time.Unix(1_700_000_000, 0), pools: modelPools, ports: map[netip.Addr]*[maxPorts]port{},
		have: map[api.Key]*Assignment{}, table: map[string]bool{}}
	step, path := 0, filepath.Join(dir, "0.db")
	m.report = func() string { return fmt.Sprintf("seed %d, step %d", seed, step) }
	open := func() *Registry {
		r, err := Open(Options{Path: path, History: 100000, Pools: modelPools, Now: func() time.Time { return m.now }, Sink: m.sink})
		if err != nil {
			t.Fatal(err, m.report())
		}
		r.db.NoSync = true // the page cache survives what this test does to it
		return r
	}
	r := open()
	defer func() { r.Close() }()
	exhausted, granted := 0, 0
	for step = range steps {
		m.now = m.now.Add(time.Duration(rnd.IntN(6000)) * time.Millisecond)
		n := rnd.IntN(40)
		k := api.Key{ContainerID: fmt.Sprintf("c%d", n), Interface: "eth0"}
		switch rnd.IntN(12) {
		case 0:
			m.now = m.now.Add(time.Duration(rnd.IntN(60)) * time.Second)
		case 1: // restart
			r.Close()
			r = open()
		case 2: // crash: all that is left is the file as it is now
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			os.Remove(path)
			path = filepath.Join(dir, fmt.Sprintf("%d.db", step+1))
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			r = open()
		case 3, 4, 5, 6:
			err := r.Delete(t.Context(), k)
			if (err == nil) != errors.Is(err, ErrNotFound) && err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err, m.report())
			}
		default:
			if modelPut(m, r, k, randomRequest(rnd, n)) {
				granted++
			} else {
				exhausted++
			}
		}
		compare(m, r)
		address := netip.MustParseAddr([]string{"198.51.100.0", "198.51.100.1", "203.0.113.2", "192.0.2.10"}[rnd.IntN(4)])
		ask, at := netip.AddrPortFrom(address, uint16(rnd.IntN(maxPorts))), m.now.Add(-time.Duration(rnd.IntN(1000))*time.Second)
		var got api.Key
		if a, err := r.Whois(ask, at); err == nil {
			got = a.Key
		}
		if want := m.whois(ask, at); got != want {
			t.Fatalf("whois %s at %s: %s, want %s\n%s", ask, at, got, want, m.report())
		}
	}
	if granted < steps/10 || exhausted < steps/100 {
		t.Errorf("%d requests were granted and %d refused: too few to prove anything", granted, exhausted)
	}
}

// modelPut puts, and says whether the request was granted. If not, the reason
// must be true.
func modelPut(m *model, r *Registry, k api.Key, q api.Request) bool {
	before := m.have[k]
	a, err := r.Put(m.t.Context(), k, q)
	var full *ExhaustedError
	var conflict *ConflictError
	var wrong *FieldError
	switch {
	case err == nil:
		again, err := r.Put(m.t.Context(), k, q)
		if err != nil || again.held != a.held {
			m.t.Fatalf("put again: %v, %v, want %v\n%s", again, err, a, m.report())
		}
		return true
	case errors.As(err, &full):
		p, _ := r.state.poolFor(q)
		if m.runFree(p.Pool, k, q) {
			m.t.Fatalf("%v, but there is\n%s", err, m.report())
		}
	case errors.As(err, &conflict):
		if m.have[conflict.Owner] == nil {
			m.t.Fatalf("%v, who has nothing\n%s", err, m.report())
		}
	case !errors.As(err, &wrong):
		m.t.Fatal(err, m.report())
	}
	if m.have[k] != before {
		m.t.Fatalf("%v, but something changed\n%s", err, m.report())
	}
	return false
}

func compare(m *model, r *Registry) {
	if r.Len() != len(m.have) {
		m.t.Fatalf("%d assignments, want %d\n%s", r.Len(), len(m.have), m.report())
	}
	for k, want := range m.have {
		got, err := r.Get(k)
		if err != nil || got.Address != want.Address || !got.Ports.Equal(want.Ports) || !got.Since.Equal(want.Since) ||
			got.Serial != want.Serial || got.inside != want.inside || got.Succeeds != want.Succeeds ||
			!reflect.DeepEqual(got.Request.IPv6, want.Request.IPv6) {
			m.t.Fatalf("%s: %+v, %v, want %+v\n%s", k, got, err, want, m.report())
		}
	}
	insiders := Insiders{}
	for _, a := range m.have {
		insiders.count(a, 1)
	}
	if got := r.Insiders(); got != insiders {
		m.t.Fatalf("%+v have it inside, want %+v\n%s", got, insiders, m.report())
	}
	for mp := range r.Mappings() {
		if !m.table[fmt.Sprint(mp)] {
			m.t.Fatalf("mapping %v did not reach the table\n%s", mp, m.report())
		}
	}
	if len(m.table) != r.Len() {
		m.t.Fatalf("table has %d mappings, want %d\n%s", len(m.table), r.Len(), m.report())
	}
}
