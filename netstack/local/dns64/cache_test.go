package dns64

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestCache: positive and negative answers are asked for once, their TTLs
// decrease, and they end.
func TestCache(t *testing.T) {
	u := script(t, zone(t, "a.test. 100 A 192.0.2.1", "a.test. 100 TXT x"))
	s := serverFor(t, u.AddrPort)
	began := time.Now()
	now := began
	s.options.Now = func() time.Time { return now }
	for _, c := range []struct {
		after time.Duration
		name  string
		want  string
		asked int
	}{
		{0, "a.test.", "NOERROR; 100 AAAA 64:ff9b::c000:201", 2},
		{40 * time.Second, "A.Test.", "NOERROR; 60 AAAA 64:ff9b::c000:201", 2},
		{100 * time.Second, "a.test.", "NOERROR; 100 AAAA 64:ff9b::c000:201", 3}, // A ended, the denial of AAAA (200 s) has not
		{150 * time.Second, "a.test.", "NOERROR; 50 AAAA 64:ff9b::c000:201", 3},
		{190 * time.Second, "none.test.", "NXDOMAIN", 4},
		{380 * time.Second, "none.test.", "NXDOMAIN", 4},
		{391 * time.Second, "none.test.", "NXDOMAIN", 5},
	} {
		now = began.Add(c.after)
		if got := lines(ask(t, s, query(c.name, dns.TypeAAAA), "udp")); got != c.want {
			t.Errorf("after %v: %s, want %s", c.after, got, c.want)
		}
		if u.count() != c.asked {
			t.Errorf("after %v: asked %v", c.after, u.asked)
		}
	}
}

func TestCacheRemembersFailures(t *testing.T) {
	u := script(t, func(q *dns.Msg, _ string) *dns.Msg { return rcode(q, dns.RcodeServerFailure).SetEdns0(1232, false) })
	s := serverFor(t, u.AddrPort)
	now := time.Now()
	s.options.Now = func() time.Time { return now }
	counts := ""
	for range 3 {
		ask(t, s, query("a.test.", dns.TypeTXT), "udp")
		counts += fmt.Sprint(u.count(), " ")
		now = now.Add(failureTTL / 2)
	}
	if counts != "1 1 2 " {
		t.Error(counts)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(10)
	m := new(dns.Msg).SetQuestion("x.", dns.TypeTXT)
	m.Answer = []dns.RR{parse(t, "x. 100 TXT y")}
	now := time.Now()
	known := func(name string) bool {
		m, _ := c.get(question{name: name, qtype: dns.TypeTXT}, now)
		return m != nil
	}
	for i := range 100 {
		c.put(question{name: fmt.Sprint(i, "."), qtype: dns.TypeTXT}, ending{msg: m}, now)
		c.get(question{name: "0.", qtype: dns.TypeTXT}, now)
	}
	if len(c.entries) != 10 || !known("0.") || known("50.") {
		t.Errorf("%d entries, or not the least recently used went", len(c.entries))
	}
	for range 60 {
		m.Answer = append(m.Answer, parse(t, fmt.Sprintf("x. 100 TXT %0200d", len(m.Answer))))
	}
	for i := range 100 {
		c.put(question{name: fmt.Sprint("big", i, "."), qtype: dns.TypeTXT}, ending{msg: m}, now)
	}
	if c.bytes > 10*entryBytes {
		t.Errorf("%d octets", c.bytes)
	}
	c.resize(0)
	if c.bytes != 0 || len(c.entries) != 0 || c.once.Len()+c.again.Len() != 0 {
		t.Error("not empty")
	}
}

// TestCacheScan: names that nobody asks for twice, as many as one likes, leave
// those alone that are.
func TestCacheScan(t *testing.T) {
	c, now := newCache(100), time.Now()
	m := new(dns.Msg).SetQuestion("x.", dns.TypeTXT)
	m.Answer = []dns.RR{parse(t, "x. 100 TXT y")}
	at := func(name string) question { return question{name: name, qtype: dns.TypeTXT} }
	for i := range 50 {
		c.put(at(fmt.Sprint("known", i, ".")), ending{msg: m}, now)
		c.get(at(fmt.Sprint("known", i, ".")), now)
	}
	for i := range 10_000 {
		c.put(at(fmt.Sprint(i, ".")), ending{msg: m}, now)
	}
	for i := range 50 {
		if m, _ := c.get(at(fmt.Sprint("known", i, ".")), now); m == nil {
			t.Fatalf("known%d was pushed out", i)
		}
	}
	for i := range 1000 { // what is known does not fill it for ever either
		c.put(at(fmt.Sprint(i, ".")), ending{msg: m}, now)
		if m, _ := c.get(at(fmt.Sprint(i, ".")), now); m == nil {
			t.Fatalf("%d was not kept at all", i)
		}
	}
	if m, _ := c.get(at("known0."), now); m != nil || len(c.entries) != 100 || c.again.Len() > 75 {
		t.Errorf("known0 %v; %d entries, %d of them asked for again", m, len(c.entries), c.again.Len())
	}
}

// TestFailuresGrow is RFC 9520 3.2: what goes on failing is asked for less and
// less, up to a minute, and at once as often as before when it has worked.
func TestFailuresGrow(t *testing.T) {
	var bad atomic.Bool
	u := script(t, func(q *dns.Msg, _ string) *dns.Msg {
		if bad.Load() {
			return rcode(q, dns.RcodeServerFailure).SetEdns0(1232, false)
		}
		return zone(t, "a.test. 1 A 192.0.2.1")(q, "")
	})
	s := serverFor(t, u.AddrPort)
	now := time.Now()
	s.options.Now = func() time.Time { return now }
	asked := func(d time.Duration) (times int) {
		for range d / time.Second {
			before := u.count()
			ask(t, s, query("a.test.", dns.TypeA), "udp")
			times += u.count() - before
			now = now.Add(time.Second)
		}
		return times
	}
	bad.Store(true)
	if n := asked(62 * time.Second); n != 5 { // at 0, 2, 6, 14, 30 s
		t.Errorf("asked %d times in 62 s", n)
	}
	if n := asked(time.Hour); n < 59 || n > 61 {
		t.Errorf("asked %d times in an hour", n)
	}
	bad.Store(false)
	asked(time.Minute)
	bad.Store(true)
	now = now.Add(time.Second)
	if n := asked(4 * time.Second); n != 2 {
		t.Errorf("after an answer: asked %d times in 4 s", n)
	}
}
