// Package dns64 is a DNS64 forwarder (RFC 6147): it asks its upstreams and
// gives names that have only IPv4 addresses an IPv6 address inside the
// translation prefix. It knows DNS messages, upstream servers and the
// listeners it is handed; devices, gVisor and packets may not enter here.
//
// A query that can be answered from what is known is answered where it is read.
// What waits for upstreams holds a place, of which each client has a share, and
// is answered after patience at the latest; the question itself may go on
// longer, for the cache.
//
// miekg/dns v1 gets no new features any more. Its successor, v2, has another
// interface for everything that this package uses; v1 does all that is needed.
package dns64

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/natless/natless/translator/special"
)

// Config is what an operator chooses. The zero value of a field is its default.
type Config struct {
	Upstreams []netip.AddrPort // asked in this order; default: the servers of ResolvConf
	Exclude   []netip.Prefix   // AAAA records to treat as absent (RFC 6147 5.1.4); default ::ffff:0:0/96
	Cache     int              // answers to remember; default 10,000, negative: none
	Clients   []netip.Prefix   // who may ask besides workloads and this host
}

// Prefix is RFC 6052 for the prefix in use, which may change while serving.
type Prefix interface {
	// Network is the prefix itself; the zero value when there is none.
	Network() netip.Prefix
	// Embed gives the IPv6 address that stands for v4; false without a prefix.
	Embed(v4 netip.Addr) (netip.Addr, bool)
	// Extract takes the IPv4 address out of v6; false when no prefix covers it.
	Extract(v6 netip.Addr) (netip.Addr, bool)
	// Translatable reports whether packets to the embedded v4 would be translated:
	// not to private addresses under the well-known prefix (RFC 6052 3.1).
	Translatable(v4 netip.Addr) bool
}

// Options is how the server reaches the world. The zero value of a field is
// its default.
type Options struct {
	Dial       func(ctx context.Context, network, address string) (net.Conn, error) // default net.Dialer
	ResolvConf string                                                               // default /etc/resolv.conf
	Self       []netip.Addr                                                         // upstreams never to ask: asking them would be a loop
	Timeout    time.Duration                                                        // for one try of one upstream; default 4 s
	Patience   time.Duration                                                        // for one query; default 1.5 s
	Log        *slog.Logger                                                         // default discards
	Now        func() time.Time                                                     // default time.Now

	// Workload gives one address for all that a workload may ask from, and false
	// for others. Default: every address is a workload.
	Workload func(netip.Addr) (netip.Addr, bool)
	// Host knows the addresses of the machine itself. Default: none.
	Host func(netip.Addr) bool
}

// Bounds that no configuration lifts: what one server may hold at a time.
const (
	maxQueries     = 1024                    // waiting for upstreams
	maxQuestions   = 512                     // put to upstreams: some sockets each
	maxConnections = 128                     // TCP
	maxPipelined   = 16                      // queries of one connection that wait for upstreams
	maxQuery       = 4096                    // octets of a query
	maxUDP         = 1232                    // octets in a datagram, either way (no fragments)
	patience       = 1500 * time.Millisecond // for one query: clients ask again after 2 s and more
	totalTimeout   = 5 * time.Second         // for one question, all upstreams and tries
	idleTimeout    = 8 * time.Second         // TCP between queries (RFC 7766 6.2.3)
	readTimeout    = 2 * time.Second         // TCP for the first query, and for writing an answer
)

// Server answers queries. Its methods may be called by any number of
// goroutines.
type Server struct {
	Stats Stats

	prefix   Prefix
	options  Options
	settings atomic.Pointer[settings]
	cache    *cache

	waiting     *shares // queries
	asking      *shares // questions put to upstreams
	connections *shares // TCP

	refuse, complain *rate.Limiter
	lastStranger     atomic.Pointer[netip.Addr]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex           // guards what follows
	flights map[question]*flight // under way
	closed  bool                 // no more of them
	running sync.WaitGroup       // of flights
}

// settings is one Config at work.
type settings struct {
	upstreams func() []*upstream
	exclude   []netip.Prefix
	clients   []netip.Prefix
}

// New makes a server. It starts nothing.
func New(c Config, prefix Prefix, o Options) *Server {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Timeout == 0 {
		o.Timeout = 4 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = patience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		prefix: prefix, options: o, cache: newCache(0), flights: map[question]*flight{},
		waiting: newShares(maxQueries), asking: newShares(maxQuestions), connections: newShares(maxConnections),
		refuse: rate.NewLimiter(refusals, refusals), complain: rate.NewLimiter(rate.Every(complaints), 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.Reload(c)
	return s
}

// Reload swaps the configuration in; queries under way keep the one they have.
func (s *Server) Reload(c Config) {
	set := &settings{exclude: c.Exclude, clients: c.Clients}
	if set.exclude == nil {
		set.exclude = []netip.Prefix{special.IPv4Mapped}
	}
	if len(c.Upstreams) > 0 {
		list := makeUpstreams(c.Upstreams, s.options.Self, nil)
		set.upstreams = func() []*upstream { return list }
	} else {
		set.upstreams = (&hostResolvers{path: s.options.ResolvConf, self: s.options.Self, now: s.options.Now}).list
	}
	switch {
	case c.Cache == 0:
		s.cache.resize(10_000)
	default:
		s.cache.resize(max(c.Cache, 0))
	}
	s.settings.Store(set)
}

// InProgress is how many queries wait for upstreams.
func (s *Server) InProgress() int { return s.waiting.inUse() }

// Asking is how many questions upstreams are being asked.
func (s *Server) Asking() int { return s.asking.inUse() }

// Cached is how many answers the cache has, and their size.
func (s *Server) Cached() (entries, octets int) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return len(s.cache.entries), s.cache.bytes
}

// Close ends what is being asked of upstreams; those questions fail.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
	for _, u := range s.settings.Load().upstreams() {
		u.streams.close()
	}
}
