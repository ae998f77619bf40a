package dns64

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// How long to remember what an upstream did.
const (
	grace       = 10 * time.Second // no answer: it is asked last
	sixGrace    = time.Minute      // no answer about AAAA, which seldom is an outage
	plainMemory = 10 * time.Minute // no EDNS: RFC 6891 6.2.2 has this remembered for a while only
)

// plainProofs is how many questions in a row must be answered without EDNS
// only before silence counts as "no EDNS": one is a lost datagram, and who
// takes that for more asks the plain way for ever.
const plainProofs = 3

// upstream is a recursive server.
type upstream struct {
	address netip.AddrPort
	health  [2]health // about AAAA, and about all else
	streams streams   // TCP

	takesEDNS  atomic.Int64 // when it last showed that, in Unix nanoseconds
	plainUntil atomic.Int64 // when to try EDNS again
	proofs     atomic.Int32
}

// health is when a server last failed, in Unix nanoseconds, and how often in a
// row since it last answered.
type health struct {
	failed atomic.Int64
	row    atomic.Int32
}

func (h *health) fail(now time.Time) {
	h.failed.Store(now.UnixNano())
	h.row.Add(1)
}

// sick says that it has failed so often in a row, and lately.
func (h *health) sick(times int32, now time.Time, memory time.Duration) bool {
	return h.row.Load() >= times && h.failed.Load() > now.Add(-memory).UnixNano()
}

// How many failures in a row are more than a lost datagram, and more than a
// name or two whose own servers are dead.
const suspicious, certain = 2, 6

// about is the health for questions of a type: many servers are good at all but
// AAAA (RFC 4074).
func (u *upstream) about(qtype uint16) *health {
	if qtype == dns.TypeAAAA {
		return &u.health[0]
	}
	return &u.health[1]
}

// edns reports whether to ask with EDNS. again: it has been silent just now.
func (u *upstream) edns(now time.Time, again bool) bool {
	if u.plainUntil.Load() > now.UnixNano() {
		return false
	}
	return !again || u.takes(now)
}

// takes says that it has shown lately that it takes EDNS.
func (u *upstream) takes(now time.Time) bool {
	return u.takesEDNS.Load() > now.Add(-plainMemory).UnixNano()
}

// tookEDNS notes an answer to a question with EDNS.
func (u *upstream) tookEDNS(now time.Time) {
	u.takesEDNS.Store(now.UnixNano())
	u.proofs.Store(0)
}

// declined notes that a question was answered when it was asked without EDNS, and
// with EDNS ended in an error. Whoever has a zone of his own can have his names
// fail every other time, and must not take the signatures of all names from
// everybody: SERVFAIL and REFUSED may be about the name, and no error is proof
// against a server that has shown that it takes EDNS.
func (u *upstream) declined(now time.Time, rcode int) {
	named := rcode == dns.RcodeServerFailure || rcode == dns.RcodeRefused
	if named && u.takes(now) {
		return
	}
	u.plain(now, !named && !u.takes(now))
}

// plain notes that it takes no EDNS, or, without proof, that it looks like that.
func (u *upstream) plain(now time.Time, proven bool) {
	if proven || u.proofs.Add(1) >= plainProofs {
		u.proofs.Store(0)
		u.plainUntil.Store(now.Add(plainMemory).UnixNano())
	}
}

// makeUpstreams keeps what is known of those that were there before.
func makeUpstreams(addresses []netip.AddrPort, self []netip.Addr, before []*upstream) []*upstream {
	var list []*upstream
	for _, a := range addresses {
		at := slices.IndexFunc(before, func(u *upstream) bool { return u.address == a })
		switch {
		case slices.Contains(self, a.Addr()):
		case at >= 0:
			list = append(list, before[at])
		default:
			list = append(list, &upstream{address: a})
		}
	}
	return list
}

// hostResolvers follows the host's resolv.conf. It looks at the file when
// asked, and at most every few seconds, so that it costs nothing when idle.
type hostResolvers struct {
	path string
	self []netip.Addr
	now  func() time.Time

	mu       sync.Mutex
	looked   time.Time
	modified time.Time
	current  []*upstream
}

func (h *hostResolvers) list() []*upstream {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); now.Sub(h.looked) < 5*time.Second {
		return h.current
	} else {
		h.looked = now
	}
	info, err := os.Stat(h.path)
	if err != nil || info.ModTime().Equal(h.modified) {
		return h.current
	}
	c, err := dns.ClientConfigFromFile(h.path)
	if err != nil {
		return h.current
	}
	h.modified = info.ModTime()
	var addresses []netip.AddrPort
	for _, server := range c.Servers {
		if a, err := netip.ParseAddr(server); err == nil {
			addresses = append(addresses, netip.AddrPortFrom(a, 53))
		}
	}
	h.current = makeUpstreams(addresses, h.self, h.current)
	return h.current
}

// byHealth moves servers that failed lately behind the others.
func (s *Server) byHealth(list []*upstream, qtype uint16) []*upstream {
	now := s.options.Now()
	sick := func(u *upstream) int {
		if u.about(qtype).sick(1, now, grace) {
			return 1
		}
		return 0
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *upstream) int { return sick(a) - sick(b) })
	return list
}

// silentAbout says that no upstream has answered about a type lately.
func (s *Server) silentAbout(qtype uint16) bool {
	now := s.options.Now()
	return !slices.ContainsFunc(s.settings.Load().upstreams(), func(u *upstream) bool {
		return !u.about(qtype).sick(suspicious, now, sixGrace)
	})
}

// Upstream is a server and what is wrong with it; "": nothing.
type Upstream struct {
	Address netip.AddrPort
	Trouble string
	Silent  bool // about everything
}

// Upstreams are the servers in the order of the configuration.
func (s *Server) Upstreams() (list []Upstream) {
	now := s.options.Now()
	for _, u := range s.settings.Load().upstreams() {
		trouble, silent := "", u.health[1].sick(certain, now, sixGrace)
		switch six := u.health[0].sick(certain, now, sixGrace); {
		case silent:
			trouble = "does not answer"
		case six:
			trouble = "does not answer about AAAA"
		case u.plainUntil.Load() > now.UnixNano():
			trouble = "takes no EDNS"
		}
		list = append(list, Upstream{u.address, trouble, silent})
	}
	return list
}
