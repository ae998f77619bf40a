package dns64

import (
	"context"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const headerLength = 12

// request is a query that came and parsed.
type request struct {
	*dns.Msg
	opt    *dns.OPT // nil: none
	client client
	udp    bool
}

// Answer gives the answer to one query, both as on the wire without TCP's
// length, or nil where there must be none. Over UDP it fits the client's
// buffer, cut if need be. It never panics, whatever the query.
func (s *Server) Answer(raw []byte, from netip.Addr, udp bool) []byte {
	answer, rest := s.begin(raw, from, udp)
	if rest != nil {
		return rest()
	}
	return answer
}

// begin answers what needs nobody else. Else it gives the rest of the work,
// which waits for upstreams and must be called.
func (s *Server) begin(raw []byte, from netip.Addr, udp bool) (answer []byte, rest func() []byte) {
	s.Stats.Queries.Add(1)
	if len(raw) < headerLength || raw[2]&0x80 != 0 {
		s.count(Ignored)
		return nil, nil // a response, or nothing at all: an answer could be thrown to and fro
	}
	who := s.client(from)
	if who.class == stranger && !s.turnAway(from) {
		return nil, nil
	}
	defer s.guard(raw, &answer)
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		if who.class != stranger {
			s.count(Local)
		}
		return s.header(raw, dns.RcodeFormatError), nil
	}
	q := &request{m, m.IsEdns0(), who, udp}
	if who.class == stranger {
		return s.finish(q, explained(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "not a workload of this host")), nil
	}
	r, err := s.respond(&lookup{Server: s, who: who}, q)
	if err == nil {
		s.count(Local)
		return s.finish(q, r), nil
	}
	if !s.waiting.take(who, s.options.Now()) {
		s.limited(who)
		return s.finish(q, fault(errLimited)), nil
	}
	return nil, func() []byte { return s.await(raw[:headerLength], q) }
}

// await answers what upstreams have to be asked for, and gives the place back.
func (s *Server) await(raw []byte, q *request) (answer []byte) {
	defer func() { s.waiting.release(q.client, false, s.options.Now()) }()
	defer s.guard(raw, &answer)
	ctx, cancel := context.WithTimeout(s.ctx, s.options.Patience)
	defer cancel()
	r, err := s.respond(&lookup{Server: s, who: q.client, ctx: ctx}, q)
	switch err {
	case nil:
		s.count(Asked)
	case errLimited:
		s.limited(q.client)
	default:
		s.count(Failed)
		s.asking.blame(q.client, s.options.Now())
	}
	if err != nil {
		r = fault(err)
	}
	return s.finish(q, r)
}

// guard turns a panic into SERVFAIL.
func (s *Server) guard(raw []byte, answer *[]byte) {
	if p := recover(); p != nil {
		s.panicked(p)
		s.count(Ignored)
		*answer = s.header(raw, dns.RcodeServerFailure)
	}
}

// header is an answer with nothing but a header.
func (s *Server) header(raw []byte, rcode byte) []byte {
	s.Stats.responded(int(rcode))
	out := make([]byte, headerLength)
	copy(out, raw[:2])
	out[2] = 0x80 | raw[2]&0x79 // QR; opcode and RD as asked
	out[3] = 0x80 | rcode       // RA
	return out
}

// respond gives what is to be said to a query that parsed.
func (s *Server) respond(l *lookup, q *request) (*dns.Msg, error) {
	if r := s.refusal(q); r != nil {
		return r, nil
	}
	return l.answer(q)
}

// finish makes r the answer to q, and packs it.
func (s *Server) finish(q *request, r *dns.Msg) []byte {
	r.Id, r.Opcode, r.Response = q.Id, q.Opcode, true
	r.RecursionDesired, r.RecursionAvailable, r.CheckingDisabled = q.RecursionDesired, true, q.CheckingDisabled
	r.Question = q.Question
	why := explanations(r)
	r.Extra = withoutOPT(r.Extra)
	if q.opt != nil {
		reply := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: why}
		reply.SetUDPSize(maxUDP)
		reply.SetDo(q.opt.Do())
		r.Extra = append(r.Extra, reply)
	} else if r.Rcode > 0xf {
		r.Rcode = dns.RcodeServerFailure
	}
	limit := dns.MaxMsgSize
	if q.udp {
		limit = udpLimit(q.opt)
	}
	packed := fit(r, limit)
	if packed != nil {
		s.Stats.responded(r.Rcode)
	}
	return packed
}

// refusal answers what is not ours to look up, or gives nil.
func (s *Server) refusal(m *request) *dns.Msg {
	code := func(rcode int) *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}} }
	switch {
	case m.Opcode != dns.OpcodeQuery:
		return code(dns.RcodeNotImplemented)
	case len(m.Question) != 1, len(m.Answer) > 0, len(m.Ns) > 0, optCount(m.Msg) > 1:
		return code(dns.RcodeFormatError)
	case m.opt != nil && m.opt.Version() != 0:
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

// answer gives what is special, synthesised or asked of upstreams.
func (l *lookup) answer(m *request) (r *dns.Msg, err error) {
	q := question{
		name: m.Question[0].Name, qtype: m.Question[0].Qtype,
		do: m.opt != nil && m.opt.Do(), cd: m.CheckingDisabled, rd: m.RecursionDesired,
	}
	if r = l.special(q); r != nil {
		return r, nil
	}
	switch q.qtype {
	case dns.TypeAAAA:
		r, err = l.aaaa(q)
	case dns.TypePTR:
		r, err = l.ptr(q)
	default:
		r, err = l.resolve(q)
	}
	if err != nil {
		return nil, err
	}
	r.Authoritative, r.Truncated, r.Zero = false, false, false
	if !q.do {
		r.AuthenticatedData = false // RFC 6147 5.5, item 1
	}
	if !l.asked {
		l.Stats.CacheHits.Add(1)
	}
	return r, nil
}

// udpLimit is how long an answer the client takes (RFC 6891 6.2.5), as far as
// we go along.
func udpLimit(opt *dns.OPT) int {
	if opt != nil {
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

// What of an upstream's explanations is passed on: it must fit into the
// shortest datagram.
const maxExplanations, maxExplanation = 3, 64

// explanations are the upstream's extended errors (RFC 8914), which we pass on.
func explanations(r *dns.Msg) (list []dns.EDNS0) {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, is := o.(*dns.EDNS0_EDE); is && len(list) < maxExplanations {
				if len(ede.ExtraText) > maxExplanation {
					ede.ExtraText = ""
				}
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
