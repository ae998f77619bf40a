package dns64

import (
	"encoding/binary"
	"strings"

	"github.com/miekg/dns"
)

const headerLength = 12

// Answer gives the answer to one query, both as on the wire without TCP's
// length, or nil where there must be none. Over UDP it fits the client's
// buffer, cut if need be. It never panics, whatever the query.
func (s *Server) Answer(query []byte, udp bool) (answer []byte) {
	s.Stats.Queries.Add(1)
	if len(query) < headerLength || query[2]&0x80 != 0 {
		return nil // a response, or nothing at all: an answer could be thrown to and fro
	}
	id := binary.BigEndian.Uint16(query)
	var err error
	defer func() {
		if err != nil {
			answer = s.failure(id, query[2], dns.RcodeServerFailure)
		}
	}()
	defer s.recovered(&err)

	m := new(dns.Msg)
	if err := m.Unpack(query); err != nil {
		return s.failure(id, query[2], dns.RcodeFormatError)
	}
	r := s.respond(m)
	limit := dns.MaxMsgSize
	if udp {
		limit = udpLimit(m)
	}
	if answer = fit(r, limit); answer != nil {
		s.Stats.responded(r.Rcode)
	}
	return answer
}

// failure is an answer with nothing but a header.
func (s *Server) failure(id uint16, flags byte, rcode byte) []byte {
	s.Stats.responded(int(rcode))
	out := make([]byte, headerLength)
	binary.BigEndian.PutUint16(out, id)
	out[2] = 0x80 | flags&0x79 // QR; opcode and RD as asked
	out[3] = 0x80 | rcode      // RA
	return out
}

// respond gives the whole answer to a query that parsed.
func (s *Server) respond(m *dns.Msg) *dns.Msg {
	opt := m.IsEdns0()
	r := s.refuse(m, opt)
	if r == nil {
		r = s.lookup(m, opt)
	}
	r.Id, r.Opcode, r.Response = m.Id, m.Opcode, true
	r.RecursionDesired, r.RecursionAvailable, r.CheckingDisabled = m.RecursionDesired, true, m.CheckingDisabled
	r.Question = m.Question
	explained := explanations(r)
	r.Extra = withoutOPT(r.Extra)
	if opt == nil {
		if r.Rcode > 0xf {
			r.Rcode = dns.RcodeServerFailure
		}
		return r
	}
	reply := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	reply.SetUDPSize(maxUDP)
	reply.SetDo(opt.Do())
	reply.Option = explained
	r.Extra = append(r.Extra, reply)
	return r
}

// refuse answers what is not ours to look up, or gives nil.
func (s *Server) refuse(m *dns.Msg, opt *dns.OPT) *dns.Msg {
	code := func(rcode int) *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}} }
	switch {
	case m.Opcode != dns.OpcodeQuery:
		return code(dns.RcodeNotImplemented)
	case len(m.Question) != 1, len(m.Answer) > 0, len(m.Ns) > 0, optCount(m) > 1:
		return code(dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		return code(dns.RcodeBadVers)
	}
	q := m.Question[0]
	switch {
	case q.Qclass != dns.ClassINET:
		return code(dns.RcodeRefused)
	case q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		return code(dns.RcodeRefused) // an answer of many messages, which an upstream would refuse as well
	case q.Qtype == dns.TypeOPT, q.Qtype == dns.TypeTSIG, q.Qtype == dns.TypeTKEY, q.Qtype == dns.TypeNone:
		return code(dns.RcodeFormatError)
	}
	return nil
}

// lookup answers from what is special, synthesised or asked of upstreams.
func (s *Server) lookup(m *dns.Msg, opt *dns.OPT) *dns.Msg {
	q := question{
		name: m.Question[0].Name, qtype: m.Question[0].Qtype,
		do: opt != nil && opt.Do(), cd: m.CheckingDisabled, rd: m.RecursionDesired,
	}
	r := s.special(q)
	if r != nil {
		return r
	}
	switch q.qtype {
	case dns.TypeAAAA:
		r = s.aaaa(q)
	case dns.TypePTR:
		r = s.ptr(q)
	default:
		r = s.plain(q)
	}
	r.Authoritative, r.Truncated, r.Zero = false, false, false
	if !q.do {
		r.AuthenticatedData = false // RFC 6147 5.5, item 1
	}
	return r
}

// plain gives an upstream's own answer.
func (s *Server) plain(q question) *dns.Msg {
	r, err := s.resolve(q)
	if err != nil {
		return servfail()
	}
	return r
}

func servfail() *dns.Msg {
	return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}}
}

// udpLimit is how long an answer the client takes (RFC 6891 6.2.5), as far as
// we go along.
func udpLimit(query *dns.Msg) int {
	if opt := query.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	return dns.MinMsgSize
}

func fit(r *dns.Msg, limit int) []byte {
	r.Compress = true
	r.Truncate(limit)
	if packed, err := r.Pack(); err == nil && len(packed) <= limit {
		return packed
	}
	r.Answer, r.Ns, r.Extra = nil, nil, nil
	r.Rcode = dns.RcodeServerFailure
	packed, err := r.Pack()
	if err != nil {
		return nil
	}
	return packed
}

func optCount(m *dns.Msg) (n int) {
	for _, rr := range m.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			n++
		}
	}
	return n
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// explanations are the upstream's extended errors (RFC 8914), which we pass on.
func explanations(r *dns.Msg) (list []dns.EDNS0) {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, is := o.(*dns.EDNS0_EDE); is {
				list = append(list, ede)
			}
		}
	}
	return list
}

// bogus says that an upstream told of a failed validation.
func bogus(r *dns.Msg) bool {
	for _, o := range explanations(r) {
		switch code := o.(*dns.EDNS0_EDE).InfoCode; {
		case code >= dns.ExtendedErrorCodeDNSSECIndeterminate && code <= dns.ExtendedErrorCodeNSECMissing:
			return true
		}
	}
	return false
}

func isUnder(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}
