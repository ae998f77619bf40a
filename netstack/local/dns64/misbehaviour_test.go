package dns64

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// world is a good server's zone: names with IPv4 alone, both, and none.
func world(t testing.TB) func(q *dns.Msg) *dns.Msg {
	z := zone(t, "four.test. 300 A 192.0.2.1", "six.test. 300 AAAA 2001:db8::1",
		"dual.test. 300 A 192.0.2.2", "dual.test. 300 AAAA 2001:db8::2", "text.test. 300 TXT x")
	return func(q *dns.Msg) *dns.Msg {
		r := z(q, "")
		if q.IsEdns0() != nil {
			r.SetEdns0(1232, false)
		}
		return r
	}
}

// misbehaviours are upstreams that answer a question in all the ways that were
// seen, with what is to be had of them all the same. SERVFAIL stands for every
// name where nothing is said.
func misbehaviours(good func(q *dns.Msg) *dns.Msg) map[string]struct {
	b    behaviour
	want map[string]string
} {
	one := func(m *dns.Msg) [][]byte { return [][]byte{packed(m)} }
	fine := func(q *dns.Msg) [][]byte { return one(good(q)) }
	both := func(f func(q *dns.Msg) [][]byte) behaviour { return behaviour{f, f} }
	code := func(c int) func(*dns.Msg) [][]byte {
		return func(q *dns.Msg) [][]byte {
			r := rcode(q, c)
			if q.IsEdns0() != nil {
				r.SetEdns0(1232, false)
			}
			return one(r)
		}
	}
	six := func(bad func(q *dns.Msg) [][]byte) behaviour {
		return both(func(q *dns.Msg) [][]byte {
			if q.Question[0].Qtype == dns.TypeAAAA {
				return bad(q)
			}
			return fine(q)
		})
	}
	edns := func(bad func(q *dns.Msg) [][]byte) behaviour {
		return both(func(q *dns.Msg) [][]byte {
			if q.IsEdns0() != nil {
				return bad(q)
			}
			return fine(q)
		})
	}
	silent := func(*dns.Msg) [][]byte { return nil }
	header := func(c byte) func(q *dns.Msg) [][]byte { // no question, no OPT
		return func(q *dns.Msg) [][]byte {
			return [][]byte{{byte(q.Id >> 8), byte(q.Id), 0x80, c, 0, 0, 0, 0, 0, 0, 0, 0}}
		}
	}
	cut := func(q *dns.Msg) [][]byte {
		r := good(q)
		r.Truncated, r.Answer, r.Ns = true, nil, nil
		return one(r)
	}
	first := func(wrong func(r *dns.Msg)) behaviour { // and then the right one
		return both(func(q *dns.Msg) [][]byte {
			r := good(q)
			wrong(r)
			return [][]byte{packed(r), packed(good(q))}
		})
	}
	all := map[string]string{
		"four": "NOERROR; 200 AAAA 64:ff9b::c000:201", "six": "NOERROR; 300 AAAA 2001:db8::1",
		"dual": "NOERROR; 300 AAAA 2001:db8::2", "none": "NXDOMAIN", "A four": "NOERROR; 300 A 192.0.2.1",
	}
	// no AAAA: synthesis, without the bound of an SOA record
	noSix := func(ttl string) map[string]string {
		return map[string]string{
			"four": "NOERROR; " + ttl + " AAAA 64:ff9b::c000:201", "dual": "NOERROR; " + ttl + " AAAA 64:ff9b::c000:202",
			"none": "NXDOMAIN", "A four": "NOERROR; 300 A 192.0.2.1",
		}
	}
	errorSix := noSix("60")
	errorSix["six"] = "NOERROR" // RFC 6147 5.1.6: the denial of A is the answer
	emptySix := noSix("300")
	emptySix["six"] = "NOERROR"
	nothing := map[string]string{"A four": "NOERROR; 300 A 192.0.2.1"}
	for _, n := range []string{"four", "six", "dual", "none"} {
		nothing[n] = "NXDOMAIN"
	}
	return map[string]struct {
		b    behaviour
		want map[string]string
	}{
		"good":                          {both(fine), all},
		"silent":                        {both(silent), nil},
		"AAAA dropped":                  {six(silent), noSix("60")},
		"AAAA SERVFAIL":                 {six(code(dns.RcodeServerFailure)), errorSix},
		"AAAA REFUSED":                  {six(code(dns.RcodeRefused)), errorSix},
		"AAAA NOTIMP":                   {six(code(dns.RcodeNotImplemented)), errorSix},
		"AAAA FORMERR, a header":        {six(header(dns.RcodeFormatError)), errorSix},
		"AAAA NXDOMAIN (RFC 4074 4.2)":  {six(code(dns.RcodeNameError)), nothing}, // RFC 6147 5.1.2
		"AAAA malformed (RFC 4074 4.4)": {six(func(q *dns.Msg) [][]byte { return [][]byte{append(packed(good(q))[:20], 0xc0)} }), noSix("60")},
		"AAAA is A (RFC 4074 4.4)":      {six(func(q *dns.Msg) [][]byte { return one(bent(q, good)) }), emptySix},
		"EDNS FORMERR":                  {edns(func(q *dns.Msg) [][]byte { return one(rcode(q, dns.RcodeFormatError)) }), all},
		"EDNS FORMERR, a header":        {edns(header(dns.RcodeFormatError)), all},
		"EDNS NOTIMP":                   {edns(header(dns.RcodeNotImplemented)), all},
		"EDNS SERVFAIL":                 {edns(func(q *dns.Msg) [][]byte { return one(rcode(q, dns.RcodeServerFailure)) }), all},
		"EDNS REFUSED":                  {edns(func(q *dns.Msg) [][]byte { return one(rcode(q, dns.RcodeRefused)) }), all},
		"EDNS BADVERS":                  {edns(code(dns.RcodeBadVers)), all},
		"EDNS dropped":                  {edns(silent), all},
		"EDNS and AAAA dropped": {both(func(q *dns.Msg) [][]byte {
			return ifElse(q.IsEdns0() == nil && q.Question[0].Qtype != dns.TypeAAAA, fine, silent)(q)
		}), noSix("60")},
		"all FORMERR":                  {both(header(dns.RcodeFormatError)), nil},
		"all SERVFAIL":                 {both(code(dns.RcodeServerFailure)), nil},
		"all REFUSED":                  {both(code(dns.RcodeRefused)), nil},
		"lame: refers to the root":     {both(func(q *dns.Msg) [][]byte { return one(referral(q)) }), nil},
		"wrong identifier, then right": {first(func(r *dns.Msg) { r.Id++ }), all},
		"wrong question, then right":   {first(func(r *dns.Msg) { r.Question[0].Name = "other.test." }), all},
		"wrong type, then right":       {first(func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeMX }), all},
		"the query itself, then right": {first(func(r *dns.Msg) { r.Response = false }), all},
		"wrong identifier only":        {both(func(q *dns.Msg) [][]byte { r := good(q); r.Id++; return one(r) }), nil},
		"another case": {both(func(q *dns.Msg) [][]byte {
			r := good(q)
			r.Question[0].Name = strings.ToUpper(r.Question[0].Name)
			return one(r)
		}), all},
		"cut":                           {behaviour{cut, fine}, all},
		"cut in the middle of a record": {behaviour{func(q *dns.Msg) [][]byte { b := packed(good(q)); b[2] |= 2; return [][]byte{b[:len(b)-15]} }, fine}, all},
		"cut, TCP refused":              {behaviour{cut, nil}, nil},
		"cut, TCP refused, large UDP": {behaviour{func(q *dns.Msg) [][]byte {
			return ifElse(q.IsEdns0() != nil && q.IsEdns0().UDPSize() > 2000, fine, cut)(q)
		}, nil}, all},
		"cut, TCP silent":                {behaviour{cut, silent}, nil},
		"cut, TCP for another question":  {behaviour{cut, func(q *dns.Msg) [][]byte { r := good(q); r.Question[0].Name = "other.test."; return one(r) }}, nil},
		"TCP refused, which is not used": {behaviour{fine, nil}, all},
	}
}

func ifElse[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}

// bent answers AAAA with A records.
func bent(q *dns.Msg, good func(*dns.Msg) *dns.Msg) *dns.Msg {
	p := q.Copy()
	p.Question[0].Qtype = dns.TypeA
	r := good(p)
	r.Question[0].Qtype = dns.TypeAAAA
	return r
}

func referral(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 518400}, Ns: "a.root-servers.net."}}
	return r
}

// TestMisbehaviour is the table: upstream's behaviour × question → answer, in
// time, the first time and later, with one such upstream and with two.
func TestMisbehaviour(t *testing.T) {
	for name, c := range misbehaviours(world(t)) {
		for _, count := range []int{1, 2} {
			for _, what := range []string{"four", "six", "dual", "none", "A four"} {
				t.Run(fmt.Sprint(name, " ×", count, "/", what), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						upstreams := make([]*fake, count)
						for i := range upstreams {
							upstreams[i] = &fake{behaviour: c.b}
						}
						examine(t, beside(t, Options{}, upstreams...), what, c.want[what])
					})
				})
			}
		}
	}
}

// beside is a server with upstreams that are no further than a pipe, for the
// clock of synctest.
func beside(t *testing.T, o Options, upstreams ...*fake) *Server {
	var at []netip.AddrPort
	for i := range upstreams {
		at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 53))
	}
	o.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
		u := upstreams[netip.MustParseAddrPort(address).Addr().As4()[3]]
		if network == "tcp" && u.tcp == nil {
			return nil, syscall.ECONNREFUSED
		}
		here, there := net.Pipe()
		go u.serve(there, network)
		return here, nil
	}
	s := New(Config{Upstreams: at}, global{wellKnown}, o)
	t.Cleanup(s.Close)
	return s
}

// examine asks twice: what fails, explained and in time; what is to be had, at
// once when it was had before.
func examine(t *testing.T, s *Server, what string, want string) {
	qtype, host := uint16(dns.TypeAAAA), what
	if a, is := strings.CutPrefix(what, "A "); is {
		qtype, host = dns.TypeA, a
	}
	if want == "" {
		want = "SERVFAIL"
	}
	for i, limit := range []time.Duration{2 * time.Second, time.Second} {
		began := time.Now()
		r := ask(t, s, query(host+".test.", qtype).SetEdns0(1232, false), "udp")
		took := time.Since(began)
		if got := lines(r); got != want && !(i > 0 && sameButTTL(got, want)) {
			t.Errorf("%s, time %d: %s, want %s", what, i+1, got, want)
		}
		if want == "SERVFAIL" {
			if len(explanations(r)) == 0 {
				t.Errorf("%s: SERVFAIL without an extended error", what)
			}
			limit = 2 * time.Second // the question may still be asked
		}
		if took >= limit {
			t.Errorf("%s, time %d: took %v", what, i+1, took)
		}
	}
}

func sameButTTL(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	if len(x) != len(y) || len(x) < 2 {
		return false
	}
	x[1], y[1] = "", ""
	return strings.Join(x, " ") == strings.Join(y, " ")
}

// TestSilenceIsRemembered is RFC 4074 4.1 with two upstreams: the first name
// waits for AAAA a little, that name never again, and other names hardly.
func TestSilenceIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var records []string
		for i := range 20 {
			records = append(records, fmt.Sprintf("n%d.test. 300 A 192.0.2.1", i))
		}
		z := zone(t, records...)
		drops := behaviour{udp: func(q *dns.Msg) [][]byte {
			if q.Question[0].Qtype == dns.TypeAAAA {
				return nil
			}
			return [][]byte{packed(z(q, ""))}
		}}
		s := beside(t, Options{}, &fake{behaviour: drops}, &fake{behaviour: drops})
		resolve := func(name string, want time.Duration) {
			t.Helper()
			began := time.Now()
			if got := lines(ask(t, s, query(name, dns.TypeAAAA), "udp")); !strings.HasSuffix(got, "AAAA 64:ff9b::c000:201") {
				t.Errorf("%s: %s", name, got)
			}
			if took := time.Since(began); took != want {
				t.Errorf("%s took %v, want %v", name, took, want)
			}
		}
		resolve("n0.test.", sixWait)
		time.Sleep(totalTimeout) // the question about AAAA goes on
		resolve("n0.test.", 0)
		for i := range 19 {
			resolve(fmt.Sprintf("n%d.test.", i+1), shortWait)
		}
		time.Sleep(totalTimeout)
		if list := s.Upstreams(); len(list) != 2 || list[0].Trouble != "does not answer about AAAA" || list[1].Trouble != list[0].Trouble || list[0].Silent {
			t.Errorf("nobody is told: %v", list)
		}
	})
}

// TestOneOfTwoDropsAAAA: the other one is asked first from then on, and what the
// first is good for is asked of it.
func TestOneOfTwoDropsAAAA(t *testing.T) {
	good := world(t)
	fine := func(q *dns.Msg) [][]byte { return [][]byte{packed(good(q))} }
	synctest.Test(t, func(t *testing.T) {
		drops := &fake{behaviour: behaviour{udp: func(q *dns.Msg) [][]byte {
			if q.Question[0].Qtype == dns.TypeAAAA {
				return nil
			}
			return fine(q)
		}}}
		s := beside(t, Options{}, drops, &fake{behaviour: behaviour{udp: fine}})
		s.cache.resize(0)
		for range 20 {
			if got := lines(ask(t, s, query("dual.test.", dns.TypeAAAA), "udp")); got != "NOERROR; 300 AAAA 2001:db8::2" {
				t.Fatal(got)
			}
		}
		if n := drops.sixes.Load(); n != 1 {
			t.Errorf("the one that drops AAAA was asked %d times", n)
		}
		ask(t, s, query("dual.test.", dns.TypeA), "udp")
		if n := drops.others.Load(); n == 0 {
			t.Error("it is not asked about A any more")
		}
	})
}

// TestPlainIsRemembered is RFC 6891 6.2.2: what one upstream does with EDNS is
// found out once, for a while.
func TestPlainIsRemembered(t *testing.T) {
	good := world(t)
	synctest.Test(t, func(t *testing.T) {
		var withEDNS, without atomic.Int32
		u := &fake{behaviour: behaviour{udp: func(q *dns.Msg) [][]byte {
			if q.IsEdns0() != nil {
				withEDNS.Add(1)
				return [][]byte{packed(rcode(q, dns.RcodeFormatError))}
			}
			without.Add(1)
			return [][]byte{packed(good(q))}
		}}}
		s := beside(t, Options{}, u)
		s.cache.resize(0)
		for range 10 {
			if got := lines(ask(t, s, query("four.test.", dns.TypeA), "udp")); got != "NOERROR; 300 A 192.0.2.1" {
				t.Fatal(got)
			}
		}
		if withEDNS.Load() != 1 || without.Load() != 10 || s.Stats.Failures[NoEDNS].Load() != 1 {
			t.Errorf("asked %d times with EDNS, %d without", withEDNS.Load(), without.Load())
		}
		if list := s.Upstreams(); list[0].Trouble != "takes no EDNS" {
			t.Errorf("nobody is told: %v", list)
		}
		time.Sleep(plainMemory + time.Second)
		ask(t, s, query("four.test.", dns.TypeA), "udp")
		if withEDNS.Load() != 2 {
			t.Error("EDNS is not tried again")
		}
	})
}

// TestNamesDoNotTakeEDNS: one who has a zone whose servers fail every other time
// does not have everybody's questions asked without EDNS, and so without DNSSEC;
// nor with the first question of all.
func TestNamesDoNotTakeEDNS(t *testing.T) {
	good := world(t)
	for _, code := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeFormatError, dns.RcodeNotImplemented} {
		for _, knows := range []bool{true, false} {
			if !knows && code != dns.RcodeServerFailure && code != dns.RcodeRefused {
				continue // such a server is believed at once: TestPlainIsRemembered
			}
			t.Run(fmt.Sprint(dns.RcodeToString[code], knows), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					u := &fake{behaviour: behaviour{udp: func(q *dns.Msg) [][]byte {
						hostile := strings.HasSuffix(q.Question[0].Name, "evil.test.")
						if !hostile && q.IsEdns0() == nil {
							t.Error("asked without EDNS")
						}
						if hostile && q.IsEdns0() != nil {
							return [][]byte{packed(rcode(q, code))}
						}
						return [][]byte{packed(good(q))}
					}}}
					s := beside(t, Options{}, u)
					s.cache.resize(0)
					for i := range 20 {
						if knows || i > 0 {
							if got := lines(ask(t, s, query("four.test.", dns.TypeA), "udp")); got != "NOERROR; 300 A 192.0.2.1" {
								t.Fatal(got)
							}
						}
						ask(t, s, query(fmt.Sprintf("n%d.evil.test.", i), dns.TypeA), "udp")
					}
					if list := s.Upstreams(); list[0].Trouble != "" {
						t.Error(list)
					}
				})
			})
		}
	}
}

// TestLossIsNoLackOfEDNS: a lost datagram must not have a server asked without
// EDNS from then on.
func TestLossIsNoLackOfEDNS(t *testing.T) {
	good := world(t)
	synctest.Test(t, func(t *testing.T) {
		var lost atomic.Bool
		u := &fake{behaviour: behaviour{udp: func(q *dns.Msg) [][]byte {
			if q.IsEdns0() == nil {
				t.Error("asked without EDNS")
			}
			if lost.Swap(false) {
				return nil
			}
			return [][]byte{packed(good(q))}
		}}}
		s := beside(t, Options{}, u)
		s.cache.resize(0)
		for i := range 3 {
			lost.Store(i > 0)
			began := time.Now()
			if got := lines(ask(t, s, query("four.test.", dns.TypeA), "udp")); got != "NOERROR; 300 A 192.0.2.1" {
				t.Fatal(got)
			}
			if took := time.Since(began); took > stagger {
				t.Errorf("a lost datagram costs %v", took)
			}
		}
	})
}

// TestDeadNamesAreNotDeadServers: names whose own servers are dead do not have
// their resolver looked upon as dead, and nor does what it refuses to say.
func TestDeadNamesAreNotDeadServers(t *testing.T) {
	good := world(t)
	synctest.Test(t, func(t *testing.T) {
		s := beside(t, Options{}, &fake{behaviour: behaviour{udp: func(q *dns.Msg) [][]byte {
			switch name := q.Question[0].Name; {
			case strings.HasPrefix(name, "dead"):
				return nil
			case !q.RecursionDesired:
				return [][]byte{packed(ifElse(name == "refused.test.", rcode(q, dns.RcodeRefused), referral(q)))}
			}
			return [][]byte{packed(good(q))}
		}}})
		s.cache.resize(0)
		ask(t, s, query("dead.test.", dns.TypeAAAA), "udp")
		time.Sleep(totalTimeout)
		for name, want := range map[string]string{"refused.test.": "SERVFAIL", "other.test.": "NOERROR"} {
			for range 10 {
				q := query(name, dns.TypeA)
				q.RecursionDesired = false
				if got := lines(ask(t, s, q, "udp")); got != want {
					t.Errorf("%s without recursion: %s, want %s", name, got, want)
				}
			}
		}
		if list := s.Upstreams(); list[0].Trouble != "" {
			t.Error(list)
		}
	})
}

// TestFailoverTakesAMoment: with servers that are silent before one that
// answers, each costs a moment once and is asked last then.
func TestFailoverTakesAMoment(t *testing.T) {
	good := world(t)
	synctest.Test(t, func(t *testing.T) {
		silent := behaviour{udp: func(*dns.Msg) [][]byte { return nil }}
		s := beside(t, Options{}, &fake{behaviour: silent}, &fake{behaviour: silent},
			&fake{behaviour: behaviour{udp: func(q *dns.Msg) [][]byte { return [][]byte{packed(good(q))} }}})
		s.cache.resize(0)
		for _, want := range []time.Duration{2 * stagger, 0, 0} {
			began := time.Now()
			if got := lines(ask(t, s, query("four.test.", dns.TypeA), "udp")); got != "NOERROR; 300 A 192.0.2.1" {
				t.Error(got)
			}
			if took := time.Since(began); took != want {
				t.Errorf("took %v, want %v", took, want)
			}
		}
	})
}
