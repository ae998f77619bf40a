package dns64

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// How long synthetic records may live.
const (
	noSOA    = 600 // the denial of a real one came without an SOA record (RFC 6147 5.1.7)
	noDenial = 60  // nothing denied a real one: it may be there when the trouble is over
)

// How long to wait for AAAA records before and beside A records. Some servers
// and middleboxes drop questions for AAAA (RFC 4074 4.1): what is asked of them
// must not take as long as their silence, and RFC 6147 5.1.3 has silence count
// as an empty answer.
const (
	headStart = 150 * time.Millisecond // for AAAA, before A is asked for beside it
	sixWait   = 600 * time.Millisecond // for AAAA in all, when A is there …
	lateWait  = 200 * time.Millisecond // … and at least so long after it came
	shortWait = 50 * time.Millisecond  // instead of all, when upstreams have been silent about AAAA lately
)

// aaaa answers a query for IPv6 addresses (RFC 6147 section 5.1).
func (l *lookup) aaaa(q question) (*dns.Msg, error) {
	if q.do && q.cd { // 5.5 item 3: the client validates and synthesises itself
		return l.resolve(q)
	}
	six, four, err := l.both(q)
	if err != nil {
		return nil, err
	}
	var real *dns.Msg // nil: silence, so far
	excluded := false
	if six.over() && !six.silent {
		real = six.answer()
		if excluded = l.exclude(real); final(real) {
			return real, nil
		}
	}
	if four == nil {
		q.qtype = dns.TypeA
		if four, err = l.start(q); err != nil {
			return nil, err
		}
	}
	m, err := l.await(four)
	switch {
	case err != nil:
		return nil, err
	case m.Rcode == dns.RcodeSuccess && has(m.Answer, dns.TypeA):
		l.synthesise(m, ceiling(real, excluded))
		if !has(m.Answer, dns.TypeAAAA) { // none can be translated: the denial is that of AAAA
			m.Ns = denial(real)
		}
		return m, nil
	case real == nil && m.Rcode == dns.RcodeSuccess:
		// Silence is not a denial, and one would be remembered.
		return failed(dns.ExtendedErrorCodeNoReachableAuthority, "upstreams do not answer about AAAA"), nil
	}
	return m, nil // with no A record, this denial or error is the answer (5.1.6)
}

// ceiling is how long what is made beside an answer for AAAA may live (5.1.7).
// Errors and silence are as good as an empty answer (5.1.2, 5.1.3), but not for
// as long.
func ceiling(real *dns.Msg, excluded bool) uint32 {
	if real == nil || real.Rcode != dns.RcodeSuccess {
		return noDenial
	}
	if ttl, ok := negativeTTL(real); ok && !excluded {
		return ttl
	}
	return noSOA
}

// final says that there is nothing to synthesise beside this answer for AAAA.
func final(m *dns.Msg) bool {
	switch {
	case m.Rcode == dns.RcodeNameError: // 5.1.2
		return true
	case m.Rcode == dns.RcodeSuccess && has(m.Answer, dns.TypeAAAA):
		return true
	}
	return bogus(m) // 5.5 item 2: no synthesis around a failed validation
}

// denial is the authority section of a denial, or nothing.
func denial(m *dns.Msg) []dns.RR {
	if m == nil || !has(m.Ns, dns.TypeSOA) {
		return nil
	}
	return m.Ns
}

// both asks for AAAA, and for A beside it when that takes long. It gives the
// flight for A, or nil, when it is not to be waited for any longer.
func (l *lookup) both(q question) (six, four *flight, err error) {
	if six, err = l.start(q); err != nil || six.over() {
		return six, nil, err
	}
	began, silent := time.Now(), l.silentAbout(dns.TypeAAAA)
	if !silent {
		if l.wait(six.done, headStart); six.over() {
			return six, nil, nil
		}
	}
	q.qtype = dns.TypeA
	if four, err = l.start(q); err != nil { // no share for it: wait for the one
		_, err := l.await(six)
		return six, nil, err
	}
	select {
	case <-six.done:
	case <-l.ctx.Done():
	case <-four.done:
		rest := max(time.Until(began.Add(sixWait)), lateWait)
		switch {
		case !has(four.msg.Answer, dns.TypeA) && four.msg.Rcode != dns.RcodeNameError:
			rest = l.options.Patience
		case silent:
			rest = shortWait
		}
		l.wait(six.done, rest)
	}
	return six, four, nil
}

// exclude takes the AAAA records to be treated as absent out of m (5.1.4), and
// with them the signatures, which no longer cover the rest.
func (s *Server) exclude(m *dns.Msg) (any bool) {
	ranges := s.settings.Load().exclude
	unwanted := func(rr dns.RR) bool {
		record, is := rr.(*dns.AAAA)
		if !is {
			return false
		}
		a, ok := netip.AddrFromSlice(record.AAAA.To16())
		if !ok { // a record without data parses
			any = true
			return true
		}
		for _, p := range ranges {
			if p.Contains(a) {
				any = true
				return true
			}
		}
		return false
	}
	m.Answer = slices.DeleteFunc(m.Answer, unwanted)
	if any {
		m.Answer = slices.DeleteFunc(m.Answer, signs(dns.TypeAAAA))
		m.AuthenticatedData = false
	}
	m.Extra = slices.DeleteFunc(m.Extra, unwanted)
	return any
}

// synthesise makes AAAA records of m's A records (5.1.7), and leaves aliases
// before them as they are (5.1.5).
func (s *Server) synthesise(m *dns.Msg, ceiling uint32) {
	out := m.Answer[:0]
	for _, rr := range m.Answer {
		a, is := rr.(*dns.A)
		if !is {
			if !signs(dns.TypeA)(rr) {
				out = append(out, rr)
			}
			continue
		}
		v4, ok := netip.AddrFromSlice(a.A.To4())
		if !ok || !s.prefix.Translatable(v4) {
			continue
		}
		if v6, ok := s.prefix.Embed(v4); ok {
			out = append(out, makeAAAA(a.Hdr.Name, min(a.Hdr.Ttl, ceiling), v6))
		}
	}
	m.Answer = out
	m.AuthenticatedData = false // we did not validate it ourselves
	s.Stats.Synthesised.Add(1)
}

func makeAAAA(name string, ttl uint32, a netip.Addr) *dns.AAAA {
	return &dns.AAAA{
		Hdr:  dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: ttl},
		AAAA: a.AsSlice(),
	}
}

// signs matches the signatures of records of type t.
func signs(t uint16) func(dns.RR) bool {
	return func(rr dns.RR) bool {
		sig, is := rr.(*dns.RRSIG)
		return is && sig.TypeCovered == t
	}
}

// ptr answers reverse queries: for an address inside the prefix, with the
// names of the IPv4 address in it (5.3.1, the first of its two ways: an alias
// to the in-addr.arpa name would not survive RFC 2317 delegations).
func (l *lookup) ptr(q question) (*dns.Msg, error) {
	v6, ok := parseIP6Arpa(q.name)
	if !ok {
		return l.resolve(q)
	}
	v4, ok := l.prefix.Extract(v6)
	if !ok {
		return l.resolve(q)
	}
	asked := q.name
	q.name = inAddrArpa(v4)
	m := l.special(q)
	if m == nil {
		var err error
		if m, err = l.resolve(q); err != nil {
			return nil, err
		}
	}
	ttl := uint32(maxPositive.Seconds())
	for _, rr := range m.Answer {
		ttl = min(ttl, rr.Header().Ttl)
	}
	var names []dns.RR
	for _, rr := range m.Answer {
		if p, is := rr.(*dns.PTR); is {
			names = append(names, &dns.PTR{
				Hdr: dns.RR_Header{Name: asked, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl},
				Ptr: p.Ptr,
			})
		}
	}
	denied, isDenied := negativeTTL(m)
	m.Answer, m.Ns, m.AuthenticatedData = names, nil, false
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeOPT })
	if p := l.prefix.Network(); len(names) == 0 && isDenied && p.IsValid() {
		m.Ns = []dns.RR{reverseSOA(p, denied)}
	}
	return m, nil
}

// reverseSOA is that of the prefix's reverse zone, which is ours to deny in:
// the SOA record of a denial is of a zone that the name lies in (RFC 2308
// section 3), and in-addr.arpa is none.
func reverseSOA(p netip.Prefix, ttl uint32) *dns.SOA {
	zone, _ := dns.ReverseAddr(p.Masked().Addr().String())
	zone = zone[2*(128-p.Bits())/4:] // RFC 6052 2.2: whole nibbles
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}, Ns: zone, Mbox: ".",
		Serial: 1, Refresh: discoveryTTL, Retry: 7200, Expire: 604800, Minttl: ttl,
	}
}

const ip6ArpaLength = len("0.")*32 + len("ip6.arpa.")

// parseIP6Arpa gives the address of a whole reverse name (RFC 3596 2.5).
func parseIP6Arpa(name string) (netip.Addr, bool) {
	name = strings.ToLower(name)
	if len(name) != ip6ArpaLength || !strings.HasSuffix(name, ".ip6.arpa.") {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		digit := strings.IndexByte("0123456789abcdef", name[2*i])
		if digit < 0 || name[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

func inAddrArpa(a netip.Addr) string {
	name, _ := dns.ReverseAddr(a.String()) // fails for no netip.Addr without a zone
	return name
}
