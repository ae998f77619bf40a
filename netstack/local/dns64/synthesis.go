package dns64

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// noSOA bounds the TTL of synthetic records when the denial of a real one came
// without an SOA record (RFC 6147 5.1.7).
const noSOA = 600

// aaaa answers a query for IPv6 addresses (RFC 6147 section 5.1).
func (s *Server) aaaa(q question) *dns.Msg {
	real, err := s.resolve(q)
	if q.do && q.cd { // 5.5 item 3: the client validates and synthesises itself
		if err != nil {
			return servfail()
		}
		return real
	}
	ceiling := uint32(noSOA)
	if err == nil {
		excluded := s.exclude(real)
		switch {
		case real.Rcode == dns.RcodeNameError: // 5.1.2
			return real
		case real.Rcode == dns.RcodeSuccess && has(real.Answer, dns.TypeAAAA):
			return real
		case bogus(real): // 5.5 item 2: no synthesis around a failed validation
			return real
		case real.Rcode == dns.RcodeSuccess && !excluded:
			if ttl, ok := negativeTTL(real); ok {
				ceiling = ttl
			}
		} // any other error, and silence, are as good as an empty answer (5.1.2, 5.1.3)
	}
	q.qtype = dns.TypeA
	m, err := s.resolve(q)
	if err != nil {
		return servfail()
	}
	if m.Rcode == dns.RcodeSuccess && has(m.Answer, dns.TypeA) {
		s.synthesise(m, ceiling)
	}
	return m // with no A record, this denial or error is the answer (5.1.6)
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
func (s *Server) ptr(q question) *dns.Msg {
	v6, ok := parseIP6Arpa(q.name)
	if !ok {
		return s.plain(q)
	}
	v4, ok := s.prefix.Extract(v6)
	if !ok {
		return s.plain(q)
	}
	asked := q.name
	q.name = inAddrArpa(v4)
	m := s.special(q)
	if m == nil {
		m = s.plain(q)
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
	m.Answer, m.AuthenticatedData = names, false
	return m
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
