package dns64

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// grace is how long an upstream that did not answer is asked last.
const grace = 10 * time.Second

var errNoUpstream = errors.New("no upstream DNS server: name one in dns64.upstreams or in the host's resolv.conf")

// upstream is a recursive server.
type upstream struct {
	address  netip.AddrPort
	failedAt atomic.Int64 // Unix nanoseconds of the last silence
}

func makeUpstreams(addresses []netip.AddrPort, self []netip.Addr) []*upstream {
	var list []*upstream
	for _, a := range addresses {
		if !slices.Contains(self, a.Addr()) {
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
	h.current = makeUpstreams(addresses, h.self)
	return h.current
}

// ask puts q to the upstreams, twice round, and gives the first good answer,
// or the last bad one.
func (s *Server) ask(ctx context.Context, q question) (*dns.Msg, error) {
	list := s.byHealth(s.settings.Load().upstreams())
	if len(list) == 0 {
		return nil, errNoUpstream
	}
	var bad *dns.Msg
	var errs []error
	for range 2 {
		for _, u := range list {
			if ctx.Err() != nil {
				break
			}
			m, err := s.exchange(ctx, u, q)
			switch {
			case err != nil:
				s.Stats.UpstreamErrors.Add(1)
				u.failedAt.Store(s.options.Now().UnixNano())
				errs = append(errs, fmt.Errorf("upstream %s: %w", u.address, err))
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				return m, nil
			default: // a server that cannot; the next may
				bad = m
			}
		}
		if bad != nil {
			return bad, nil
		}
	}
	if errs == nil {
		errs = append(errs, ctx.Err())
	}
	return nil, errors.Join(errs...)
}

// byHealth moves servers that were silent lately behind the others.
func (s *Server) byHealth(list []*upstream) []*upstream {
	since := s.options.Now().Add(-grace).UnixNano()
	sick := func(u *upstream) int {
		if u.failedAt.Load() > since {
			return 1
		}
		return 0
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *upstream) int { return sick(a) - sick(b) })
	return list
}

// exchange asks one server over UDP and, when the answer is cut, over TCP.
func (s *Server) exchange(ctx context.Context, u *upstream, q question) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.RecursionDesired, m.CheckingDisabled = q.rd, q.cd
	m.SetEdns0(maxUDP, q.do)
	for _, network := range []string{"udp", "tcp"} {
		r, err := s.exchangeOver(ctx, network, u, m)
		if err != nil {
			return nil, err
		}
		if !r.Truncated {
			return r, nil
		}
	}
	return nil, errors.New("answer cut even over TCP")
}

func (s *Server) exchangeOver(ctx context.Context, network string, u *upstream, m *dns.Msg) (*dns.Msg, error) {
	s.Stats.Upstream.Add(1)
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	raw, err := s.options.Dial(ctx, network, u.address.String())
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	r, _, err := new(dns.Client).ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: raw})
	if r != nil && r.Truncated && network == "udp" && r.Id == m.Id {
		return r, nil // possibly cut in the middle of a record: asked again over TCP
	}
	if err != nil {
		return nil, err
	}
	if !r.Response || len(r.Question) != 1 || !sameQuestion(r.Question[0], m.Question[0]) {
		return nil, errors.New("answer to another question")
	}
	return r, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// resolve gives the answer to q from the cache or the upstreams. The caller
// owns the message. Equal questions at the same time are asked once.
func (s *Server) resolve(q question) (*dns.Msg, error) {
	if m := s.cache.get(q, s.options.Now()); m != nil {
		s.Stats.CacheHits.Add(1)
		return m, nil
	}
	answer, err, _ := s.flights.Do(fmt.Sprint(q.key()), func() (_ any, err error) {
		defer s.recovered(&err)
		ctx, cancel := context.WithTimeout(s.ctx, totalTimeout)
		defer cancel()
		m, err := s.ask(ctx, q)
		if err != nil {
			s.options.Log.Debug("dns64: no answer", "name", q.name, "type", dns.Type(q.qtype), "error", err)
			return nil, err
		}
		s.cache.put(q, m, s.options.Now())
		return m, nil
	})
	if err != nil {
		return nil, err
	}
	return answer.(*dns.Msg).Copy(), nil
}

// recovered turns a panic into an error: a packet must not end the daemon.
func (s *Server) recovered(err *error) {
	if p := recover(); p != nil {
		s.Stats.Panics.Add(1)
		s.options.Log.Error("dns64: panic", "value", p, "stack", string(debug.Stack()))
		*err = fmt.Errorf("panic: %v", p)
	}
}
