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
	maxNegative = time.Hour       // RFC 2308 section 5 advises one to three hours
	failureTTL  = 2 * time.Second // RFC 9520 3.2: at least 1 s, so that an outage is not asked about by everybody
	entryBytes  = 1024            // the cache holds at most this many octets for each answer it may hold
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

// cache remembers upstreams' answers as they came, packed; the least recently
// used go first. Synthesis happens on the way out, so that a new prefix needs
// no new cache.
type cache struct {
	mu      sync.Mutex
	limit   int
	bytes   int
	entries map[question]*list.Element
	recent  list.List // of *entry, most recent in front
}

type entry struct {
	key     question
	packed  []byte
	stored  time.Time
	expires time.Time
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
// off its TTLs, or nil.
func (c *cache) get(q question, now time.Time) *dns.Msg {
	c.mu.Lock()
	el := c.entries[q.key()]
	if el == nil {
		c.mu.Unlock()
		return nil
	}
	e := el.Value.(*entry)
	if !now.Before(e.expires) {
		c.remove(el)
		c.mu.Unlock()
		return nil
	}
	c.recent.MoveToFront(el)
	c.mu.Unlock()

	m := new(dns.Msg)
	if m.Unpack(e.packed) != nil {
		return nil
	}
	age := uint32(max(0, now.Sub(e.stored)/time.Second))
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT { // its TTL field holds flags
				h.Ttl -= min(h.Ttl, age)
			}
		}
	}
	return m
}

func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	ttl := lifetime(q, m)
	if ttl <= 0 {
		return
	}
	m.Compress = true
	packed, err := m.Pack()
	if err != nil {
		return
	}
	e := &entry{key: q.key(), packed: packed, stored: now, expires: now.Add(ttl)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[e.key]; el != nil {
		c.remove(el)
	}
	c.entries[e.key] = c.recent.PushFront(e)
	c.bytes += len(packed)
	c.trim()
}

func (c *cache) trim() {
	for len(c.entries) > c.limit || c.bytes > c.limit*entryBytes {
		c.remove(c.recent.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.recent.Remove(el).(*entry)
	delete(c.entries, e.key)
	c.bytes -= len(e.packed)
}

// lifetime is how long m may be remembered; 0: not at all.
func lifetime(q question, m *dns.Msg) time.Duration {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	default:
		return failureTTL
	}
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
