package dns64

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted is an upstream that does what no well-behaved server can be made to
// do. It gives what answer returns; nil is silence.
type scripted struct {
	netip.AddrPort
	mu     sync.Mutex
	asked  []string // "name type" in order
	answer func(q *dns.Msg, network string) *dns.Msg
}

func script(t testing.TB, answer func(q *dns.Msg, network string) *dns.Msg) *scripted {
	t.Helper()
	u := &scripted{AddrPort: freePort(t), answer: answer}
	for _, network := range []string{"udp", "tcp"} {
		srv := &dns.Server{Addr: u.String(), Net: network, Handler: u}
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		go srv.ListenAndServe()
		<-up
		t.Cleanup(func() { srv.Shutdown() })
	}
	return u
}

func (u *scripted) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	u.mu.Lock()
	u.asked = append(u.asked, q.Question[0].Name+" "+dns.Type(q.Question[0].Qtype).String())
	u.mu.Unlock()
	if r := u.answer(q, w.LocalAddr().Network()); r != nil {
		w.WriteMsg(r)
	}
}

func (u *scripted) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

// zone answers from records in zone file form: NODATA for other types of a
// name, NXDOMAIN for other names, with an SOA.
func zone(t testing.TB, records ...string) func(q *dns.Msg, _ string) *dns.Msg {
	soa := parse(t, "test. 300 IN SOA ns.test. h.test. 1 1 1 1 200")
	var rrs []dns.RR
	for _, line := range records {
		rrs = append(rrs, parse(t, line))
	}
	return func(q *dns.Msg, _ string) *dns.Msg {
		r := new(dns.Msg).SetReply(q)
		known := false
		for _, rr := range rrs {
			if dns.CanonicalName(rr.Header().Name) == dns.CanonicalName(q.Question[0].Name) {
				known = true
				if rr.Header().Rrtype == q.Question[0].Qtype {
					r.Answer = append(r.Answer, dns.Copy(rr))
				}
			}
		}
		if !known {
			r.Rcode = dns.RcodeNameError
		}
		if len(r.Answer) == 0 {
			r.Ns = []dns.RR{soa}
		}
		return r
	}
}

func parse(t testing.TB, line string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

// rcode answers with an error.
func rcode(q *dns.Msg, code int) *dns.Msg { return new(dns.Msg).SetRcode(q, code) }

// ask puts a query straight to the server.
func ask(t testing.TB, s *Server, q *dns.Msg, network string) *dns.Msg {
	t.Helper()
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	out := s.Answer(packed, netip.IPv6Loopback(), network == "udp")
	r := new(dns.Msg)
	if err := r.Unpack(out); err != nil {
		t.Fatalf("answer %x: %v", out, err)
	}
	if r.Id != q.Id || !r.Response || len(r.Question) == 1 && r.Question[0] != q.Question[0] {
		t.Fatalf("not an answer to this query:\n%v\n%v", q, r)
	}
	return r
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

var wellKnown = rfc6052{netip.MustParsePrefix("64:ff9b::/96")}

// global is the well-known prefix as RFC 6052 3.1 restricts it.
type global struct{ rfc6052 }

func (global) Translatable(a netip.Addr) bool { return !a.IsPrivate() }

func serverFor(t testing.TB, upstreams ...netip.AddrPort) *Server {
	s := New(Config{Upstreams: upstreams}, global{wellKnown}, Options{Timeout: time.Second, Patience: 20 * time.Second})
	t.Cleanup(s.Close)
	return s
}
