package dns64

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func someone(i int) client {
	return client{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
}

// TestShares: however many take all they can, whoever comes next finds a place,
// and who holds them in vain has fewer.
func TestShares(t *testing.T) {
	now := time.Now()
	takeAll := func(s *shares, who client) (n int) {
		for s.take(who, now) {
			n++
		}
		return n
	}
	for greedy, want := range map[int]int{0: 90, 1: 70, 2: 60, 5: 30, 10: 8, 100: 1} {
		s := newShares(512)
		var held []client
		for range 200 { // they give back what is over, and take more
			for i := range greedy {
				for range takeAll(s, someone(i)) {
					held = append(held, someone(i))
				}
			}
			for range 20 {
				if len(held) > 0 {
					s.release(held[0], false, now)
					held = held[1:]
				}
			}
		}
		for i := range greedy {
			takeAll(s, someone(i))
		}
		if n := takeAll(s, someone(greedy)); n < want {
			t.Errorf("beside %d who take all they can one has %d places, want %d", greedy, n, want)
		}
	}
	s := newShares(512)
	whole := takeAll(s, someone(1))
	for range whole {
		s.release(someone(1), true, now)
	}
	if n := takeAll(s, someone(1)); n > whole/8+1 {
		t.Errorf("%d places, and after all timed out %d", whole, n)
	}
	for s.holders[someone(1)].held > 0 {
		s.release(someone(1), false, now)
	}
	now = now.Add(leniency + 1)
	if n := takeAll(s, someone(1)); n != whole {
		t.Errorf("%d places when that is long ago, want %d", n, whole)
	}
}

func TestSharesOfGuestsAndHost(t *testing.T) {
	s, now := newShares(256), time.Now()
	for i := range 1000 {
		for s.take(client{someone(i).Addr, guest}, now) {
		}
	}
	if s.held > 128 {
		t.Errorf("guests have %d of 256 places", s.held)
	}
	if !s.take(someone(0), now) {
		t.Error("a workload has none beside them")
	}
	for i := range 1000 {
		for s.take(someone(i), now) {
		}
	}
	if !s.take(client{someone(0).Addr, host}, now) {
		t.Error("the host has none beside a thousand workloads")
	}
}

func TestSharesForget(t *testing.T) {
	s, now := newShares(256), time.Now()
	for i := range 3 * maxHolders {
		s.take(someone(i), now)
		s.release(someone(i), true, now)
	}
	if len(s.holders) > maxHolders {
		t.Errorf("%d clients are remembered", len(s.holders))
	}
	for range 10 {
		s.take(someone(1), now)
		s.release(someone(1), false, now)
	}
	if s.held != 0 || s.guests != 0 {
		t.Errorf("%d places are held by nobody", s.held)
	}
}

// asker is a client on loopback with an address of its own.
type asker struct {
	net.Conn
	t *testing.T
}

func newAsker(t *testing.T, from string, to netip.AddrPort) asker {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return asker{c, t}
}

// ask asks once, without another try, and gives the answer in short.
func (a asker) ask(name string) (string, time.Duration) {
	q := query(name, dns.TypeAAAA).SetEdns0(1232, false)
	began := time.Now()
	a.Write(packed(q))
	a.SetReadDeadline(began.Add(3 * time.Second))
	r, err := (&dns.Conn{Conn: a.Conn}).ReadMsg()
	if err != nil {
		return err.Error(), time.Since(began)
	}
	return lines(r), time.Since(began)
}

// storm is a client that asks for dead names only, thousands a second.
type storm struct {
	asker
	stop           context.CancelFunc
	running        sync.WaitGroup
	sent, answered atomic.Int64
}

func newStorm(t *testing.T, at netip.AddrPort) *storm {
	ctx, stop := context.WithCancel(t.Context())
	f := &storm{asker: newAsker(t, "127.0.0.66", at), stop: stop}
	f.running.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			for range 5 {
				f.Write(packed(query(fmt.Sprintf("d%d.test.", f.sent.Add(1)), dns.TypeAAAA)))
			}
		}
	})
	f.running.Go(func() {
		for {
			if _, err := f.Read(make([]byte, 2000)); err != nil {
				return
			}
			f.answered.Add(1)
		}
	})
	return f
}

// end ends it and waits for its answers.
func (f *storm) end() {
	f.stop()
	for deadline := time.Now().Add(5 * patience); f.answered.Load() < f.sent.Load() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	f.Close()
	f.running.Wait()
}

// TestFlood: one client sends thousands of dead names a second and has idle
// connections; the others get all that they ask, new and known, as if it were
// not there, and the flood itself is answered in time.
func TestFlood(t *testing.T) {
	var records []string
	for i := range 400 {
		records = append(records, fmt.Sprintf("n%d.test. 300 A 192.0.2.1", i))
	}
	z := zone(t, records...)
	u := misbehaving(t, behaviour{udp: func(q *dns.Msg) [][]byte {
		if q.Question[0].Name[0] == 'd' {
			return nil
		}
		return [][]byte{packed(z(q, ""))}
	}})
	s, at := start(t, Config{Upstreams: []netip.AddrPort{u.AddrPort}}, wellKnown, Options{Patience: patience})
	flood := newStorm(t, at)
	for range 2 * maxConnections {
		if c, err := net.Dial("tcp", at.String()); err == nil {
			defer c.Close()
		}
	}
	time.Sleep(300 * time.Millisecond)
	var others sync.WaitGroup
	var slowest atomic.Int64
	for i := range 8 {
		others.Go(func() {
			a := newAsker(t, fmt.Sprintf("127.0.1.%d", i+1), at)
			for j := range 50 {
				name := fmt.Sprintf("n%d.test.", i*50+j/2)
				got, took := a.ask(name)
				if !strings.HasPrefix(got, "NOERROR; ") || !strings.HasSuffix(got, "AAAA 64:ff9b::c000:201") {
					t.Errorf("%s beside the flood: %s after %v", name, got, took)
				}
				slowest.Store(max(slowest.Load(), int64(took)))
			}
		})
	}
	overTCP(t, at)
	others.Wait()
	if asking := s.Asking(); asking > maxQuestions/5 {
		t.Errorf("%d questions under way for one client", asking)
	}
	flood.end()
	if sent, answered := flood.sent.Load(), flood.answered.Load(); sent > answered+sent/50 {
		t.Errorf("of %d dead names %d have an answer", sent, answered)
	}
	t.Logf("%d dead names, %d limited; 400 queries of others, the slowest %v",
		flood.sent.Load(), s.Stats.Results[Limited].Load(), time.Duration(slowest.Load()))
}

// overTCP asks from an address that has no other connection.
func overTCP(t *testing.T, at netip.AddrPort) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, 1)}}
	c, err := d.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, _, err := (&dns.Client{Net: "tcp"}).ExchangeWithConn(query("n1.test.", dns.TypeA), &dns.Conn{Conn: c})
	if err != nil || len(r.Answer) != 1 {
		t.Errorf("over TCP beside idle connections: %v %v", r, err)
	}
}

// TestCacheNeverWaits: with every place taken, what is known is answered.
func TestCacheNeverWaits(t *testing.T) {
	u := misbehaving(t, behaviour{udp: func(q *dns.Msg) [][]byte {
		return [][]byte{packed(zone(t, "a.test. 300 A 192.0.2.1")(q, ""))}
	}})
	s := serverFor(t, u.AddrPort)
	ask(t, s, query("a.test.", dns.TypeAAAA), "udp")
	for i := range 2 * maxQueries {
		for s.waiting.take(someone(i), time.Now()) {
		}
		for s.asking.take(someone(i), time.Now()) {
		}
	}
	for name, want := range map[string]string{
		"a.test.": "NOERROR; 200 AAAA 64:ff9b::c000:201", "ipv4only.arpa.": "NOERROR; 86400 AAAA 64:ff9b::c000:aa; 86400 AAAA 64:ff9b::c000:ab",
		"b.test.": "SERVFAIL",
	} {
		r := ask(t, s, query(name, dns.TypeAAAA).SetEdns0(1232, false), "udp")
		if got := lines(r); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if r.Rcode == dns.RcodeServerFailure && len(explanations(r)) != 1 {
			t.Errorf("no reason: %v", r)
		}
	}
}

// TestMemory: a storm of dead names leaves nothing behind but the bounded cache.
func TestMemory(t *testing.T) {
	u := misbehaving(t, behaviour{udp: func(*dns.Msg) [][]byte { return nil }})
	s, at := start(t, Config{Upstreams: []netip.AddrPort{u.AddrPort}, Cache: 100}, wellKnown, Options{Timeout: 300 * time.Millisecond})
	before := runtime.NumGoroutine()
	most := 0
	for i := range 20_000 {
		a := netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)})
		if _, rest := s.begin(packed(query(fmt.Sprintf("d%d.test.", i), dns.TypeAAAA)), a, true); rest != nil {
			go rest()
		}
		most = max(most, runtime.NumGoroutine())
	}
	if limit := before + maxQueries + 4*maxQuestions; most > limit {
		t.Errorf("%d goroutines, want at most %d", most, limit)
	}
	for deadline := time.Now().Add(10 * time.Second); s.InProgress()+s.Asking() > 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	s.asking.mu.Lock()
	remembered := len(s.asking.holders)
	s.asking.mu.Unlock()
	if entries, _ := s.Cached(); entries > 100 || remembered > maxHolders || s.InProgress()+s.Asking() > 0 {
		t.Errorf("left: %d answers, %d clients, %d queries, %d questions", entries, remembered, s.InProgress(), s.Asking())
	}
	if s.Stats.Results[Limited].Load() == 0 {
		t.Error("nothing was limited: the test shows nothing")
	}
	_ = at
}
