// Package dns64 is a DNS64 forwarder (RFC 6147): it asks its upstreams and
// gives names that have only IPv4 addresses an IPv6 address inside the
// translation prefix. It knows DNS messages, upstream servers and the
// listeners it is handed; devices, gVisor and packets may not enter here.
package dns64

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/natless/natless/translator/special"
)

// Config is what an operator chooses. The zero value of a field is its default.
type Config struct {
	Upstreams []netip.AddrPort // asked in this order; default: the servers of ResolvConf
	Exclude   []netip.Prefix   // AAAA records to treat as absent (RFC 6147 5.1.4); default ::ffff:0:0/96
	Cache     int              // answers to remember; default 10,000, negative: none
}

// Prefix is RFC 6052 for the prefix in use, which may change while serving.
type Prefix interface {
	// Embed gives the IPv6 address that stands for v4; false without a prefix.
	Embed(v4 netip.Addr) (netip.Addr, bool)
	// Extract takes the IPv4 address out of v6; false when no prefix covers it.
	Extract(v6 netip.Addr) (netip.Addr, bool)
	// Translatable says whether packets to the embedded v4 would be translated:
	// not to private addresses under the well-known prefix (RFC 6052 3.1).
	Translatable(v4 netip.Addr) bool
}

// Options is how the server reaches the world. The zero value of a field is
// its default.
type Options struct {
	Dial       func(ctx context.Context, network, address string) (net.Conn, error) // default net.Dialer
	ResolvConf string                                                               // default /etc/resolv.conf
	Self       []netip.Addr                                                         // upstreams never to ask: asking them would be a loop
	Timeout    time.Duration                                                        // for one try of one upstream; default 1.5 s
	Log        *slog.Logger                                                         // default discards
	Now        func() time.Time                                                     // default time.Now
}

// Bounds that no configuration lifts: what one server may hold at a time.
const (
	maxQueries     = 512             // being answered
	maxConnections = 128             // TCP
	maxUDP         = 1232            // octets in a datagram, either way (no fragments)
	totalTimeout   = 5 * time.Second // for one question, all upstreams and tries
	idleTimeout    = 8 * time.Second // TCP between queries (RFC 7766 6.2.3)
	readTimeout    = 2 * time.Second // TCP for the first query, and for writing an answer
)

// Stats counts since the start.
type Stats struct {
	Queries, Synthesised, Dropped, Panics, Upstream, UpstreamErrors, CacheHits atomic.Uint64

	Responses [dns.RcodeBadVers + 2]atomic.Uint64 // by response code; the last: any other
}

func (s *Stats) responded(rcode int) {
	s.Responses[min(rcode, len(s.Responses)-1)].Add(1)
}

// Server answers queries. Its methods may be called by any number of
// goroutines.
type Server struct {
	Stats Stats

	prefix   Prefix
	options  Options
	settings atomic.Pointer[settings]
	cache    *cache
	flights  singleflight.Group
	slots    chan struct{} // one a query being answered

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
}

// settings is one Config at work.
type settings struct {
	upstreams func() []*upstream
	exclude   []netip.Prefix
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
		o.Timeout = 1500 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{prefix: prefix, options: o, cache: newCache(0), slots: make(chan struct{}, maxQueries)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.Reload(c)
	return s
}

// Reload swaps the configuration in; queries under way keep the one they have.
func (s *Server) Reload(c Config) {
	set := &settings{exclude: c.Exclude}
	if set.exclude == nil {
		set.exclude = []netip.Prefix{special.IPv4Mapped}
	}
	if len(c.Upstreams) > 0 {
		list := makeUpstreams(c.Upstreams, s.options.Self)
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

// InProgress is how many queries are being answered.
func (s *Server) InProgress() int { return len(s.slots) }

// Cached is how many answers the cache has, and their size.
func (s *Server) Cached() (entries, octets int) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return len(s.cache.entries), s.cache.bytes
}

// Close ends what is being asked of upstreams; those questions fail.
func (s *Server) Close() { s.cancel() }
