package dns64

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ipv4only.arpa is how clients learn the prefix (RFC 7050). A DNS64 answers for
// it and its two reverse names by itself (RFC 8880 section 7), so that
// discovery works without upstreams and whatever they say.
const (
	discoveryName = "ipv4only.arpa."
	discoveryTTL  = 86400
)

var discoveryAddresses = [2]netip.Addr{
	netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171}),
}

// special answers for the names above, or gives nil.
func (s *Server) special(q question) *dns.Msg {
	name := strings.ToLower(q.name)
	zone := ""
	for _, z := range []string{discoveryName, inAddrArpa(discoveryAddresses[0]), inAddrArpa(discoveryAddresses[1])} {
		if isUnder(name, z) {
			zone = z
		}
	}
	if zone == "" || q.qtype == dns.TypeDS && name == zone { // the parent's to answer
		return nil
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}}
	soa := &dns.SOA{
		Hdr: discoveryHeader(zone, dns.TypeSOA), Ns: zone, Mbox: ".",
		Serial: 1, Refresh: discoveryTTL, Retry: 7200, Expire: 604800, Minttl: discoveryTTL,
	}
	switch {
	case name != zone:
		m.Rcode = dns.RcodeNameError
	case q.qtype == dns.TypeSOA:
		m.Answer = []dns.RR{soa}
	case zone == discoveryName:
		m.Answer = s.discovery(q)
	case q.qtype == dns.TypePTR:
		m.Answer = []dns.RR{&dns.PTR{Hdr: discoveryHeader(q.name, dns.TypePTR), Ptr: discoveryName}}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa}
	}
	return m
}

// discovery gives the addresses of ipv4only.arpa, those of IPv6 inside the
// prefix even where it is well-known and the addresses are not global: that is
// what the name is for.
func (s *Server) discovery(q question) (rrs []dns.RR) {
	for _, v4 := range discoveryAddresses {
		switch q.qtype {
		case dns.TypeA:
			rrs = append(rrs, &dns.A{Hdr: discoveryHeader(q.name, dns.TypeA), A: v4.AsSlice()})
		case dns.TypeAAAA:
			if v6, ok := s.prefix.Embed(v4); ok {
				rrs = append(rrs, makeAAAA(q.name, discoveryTTL, v6))
			}
		}
	}
	return rrs
}

func discoveryHeader(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: discoveryTTL}
}
