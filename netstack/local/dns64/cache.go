package dns64

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Longest and shortest times to remember an answer, whatever its TTL says.
const (
	maxPositive = 24 * time.Hour
	maxNegative = time.Hour // RFC 2308 section 5 advises one to three hours
	entryBytes  = 1024      // the cache holds at most this many octets for each answer it may hold
)

// Failures are remembered, so that an outage is not asked about by everybody,
// and twice as long each time in a row (RFC 9520 3.2: at least 1 s, at most 5
// minutes; a minute is how long an outage may be felt after its end).
const (
	failureTTL    = 2 * time.Second
	silenceTTL    = 5 * time.Second // what costs most to find out again
	maxFailureTTL = time.Minute
)

// question is what an answer depends on.
type question struct {
	name       string // as the client wrote it; the cache folds its case
	qtype      uint16
	do, cd, rd bool
}

func (q question) key() question {
	q.name = dns.CanonicalName(q.name)
	return q
}

// cache remembers upstreams' answers as they came, packed. Synthesis happens on
// the way out, so that a new prefix needs no new cache.
//
// What was asked for once stands apart from what was asked for again, and goes
// first: a flood of names that nobody wants twice pushes out nothing but itself.
type cache struct {
	mu      sync.Mutex
	limit   int
	bytes   int
	entries map[question]*list.Element
	once    list.List // of *entry, most recent in front
	again   list.List // the same, at most three quarters of all
}

type entry struct {
	key      question
	packed   []byte
	again    bool // in that list
	silent   bool
	failures int // in a row, this one included
	stored   time.Time
	expires  time.Time
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: map[question]*list.Element{}}
}

func (c *cache) resize(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
	c.trim()
}

// get gives a fresh copy of the answer with the time it has spent here taken
// off its TTLs, or nil, and whether that answer stands for silence.
func (c *cache) get(q question, now time.Time) (m *dns.Msg, silent bool) {
	e := c.find(q.key(), now)
	if e == nil {
		return nil, false
	}
	m = new(dns.Msg)
	if m.Unpack(e.packed) != nil {
		return nil, false
	}
	age := uint32(max(0, now.Sub(e.stored)/time.Second))
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT { // its TTL field holds flags
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m, e.silent
}

func (c *cache) find(key question, now time.Time) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[key]
	if el == nil {
		return nil
	}
	e := el.Value.(*entry)
	if !now.Before(e.expires) {
		if e.failures == 0 { // else the next failure wants to know
			c.remove(el)
		}
		return nil
	}
	if e.again {
		c.again.MoveToFront(el)
		return e
	}
	c.once.Remove(el)
	e.again = true
	c.entries[key] = c.again.PushFront(e)
	if c.again.Len() > c.limit*3/4 {
		least := c.again.Back().Value.(*entry)
		c.again.Remove(c.again.Back())
		least.again = false
		c.entries[least.key] = c.once.PushFront(least)
	}
	return e
}

func (c *cache) put(q question, found ending, now time.Time) {
	m := found.msg
	m.Compress = true
	packed, err := m.Pack()
	if err != nil {
		return
	}
	e := &entry{key: q.key(), packed: packed, silent: found.silent, stored: now}
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[e.key]
	ttl := lifetime(q, m)
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		ttl = e.fail(el, found.vain, now)
	}
	if el != nil {
		e.again = el.Value.(*entry).again
		c.remove(el)
	}
	if ttl <= 0 {
		return
	}
	e.expires = now.Add(ttl)
	c.entries[e.key] = c.list(e).PushFront(e)
	c.bytes += len(packed)
	c.trim()
}

// fail counts a failure after what is at el, and says how long to remember it.
func (e *entry) fail(el *list.Element, vain bool, now time.Time) time.Duration {
	e.failures = 1
	if el != nil {
		if before := el.Value.(*entry); now.Sub(before.expires) < maxFailureTTL {
			e.failures += before.failures
		}
	}
	ttl := failureTTL
	if vain {
		ttl = silenceTTL
	}
	return min(ttl<<min(e.failures-1, 10), maxFailureTTL)
}

func (c *cache) list(e *entry) *list.List {
	if e.again {
		return &c.again
	}
	return &c.once
}

func (c *cache) trim() {
	for len(c.entries) > c.limit || c.bytes > c.limit*entryBytes {
		el := c.once.Back()
		if el == nil {
			el = c.again.Back()
		}
		c.remove(el)
	}
}

func (c *cache) remove(el *list.Element) {
	e := el.Value.(*entry)
	c.list(e).Remove(el)
	delete(c.entries, e.key)
	c.bytes -= len(e.packed)
}

// lifetime is how long m, which is not a failure, may be remembered; 0: not at all.
func lifetime(q question, m *dns.Msg) time.Duration {
	ttl, found := maxPositive, false
	atMost := func(seconds uint32) {
		ttl, found = min(ttl, time.Duration(seconds)*time.Second), true
	}
	for _, rr := range m.Answer {
		atMost(rr.Header().Ttl)
	}
	if m.Rcode == dns.RcodeNameError || !has(m.Answer, q.qtype) {
		seconds, ok := negativeTTL(m)
		if !ok && len(m.Answer) == 0 {
			return 0 // RFC 2308 section 5: nothing says for how long
		}
		if ok {
			ttl = min(ttl, maxNegative)
			atMost(seconds)
		}
	}
	if !found {
		return 0
	}
	return ttl
}

// negativeTTL is for how long m denies (RFC 2308 section 5).
func negativeTTL(m *dns.Msg) (seconds uint32, ok bool) {
	for _, rr := range m.Ns {
		if soa, is := rr.(*dns.SOA); is {
			return min(soa.Hdr.Ttl, soa.Minttl), true
		}
	}
	return 0, false
}

func has(rrs []dns.RR, t uint16) bool {
	for _, rr := range rrs {
		if rr.Header().Rrtype == t {
			return true
		}
	}
	return false
}
