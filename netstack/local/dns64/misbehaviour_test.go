package dns64

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// behaviour is how an upstream answers: over UDP and TCP, with whole packets, so
// that nothing is beyond it. No packet is silence.
type behaviour struct {
	udp, tcp func(q *dns.Msg) [][]byte // tcp nil: refused
}

// fake is an upstream with a behaviour. It counts what it is asked.
type fake struct {
	netip.AddrPort
	sixes, others, streams atomic.Int32
}

func (f *fake) count(q *dns.Msg) {
	if q.Question[0].Qtype == dns.TypeAAAA {
		f.sixes.Add(1)
	} else {
		f.others.Add(1)
	}
}

func misbehaving(t testing.TB, b behaviour) *fake {
	t.Helper()
	f := &fake{AddrPort: freePort(t)}
	pc, err := net.ListenPacket("udp", f.String())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			f.count(q)
			for _, p := range b.udp(q) {
				pc.WriteTo(p, from)
			}
		}
	})
	t.Cleanup(func() { pc.Close(); running.Wait() })
	if b.tcp == nil {
		return f
	}
	ln, err := net.Listen("tcp", f.String())
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.streams.Add(1)
			running.Go(func() { f.stream(c, b) })
		}
	})
	t.Cleanup(func() { ln.Close() })
	return f
}

func (f *fake) stream(c net.Conn, b behaviour) {
	defer c.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, raw); err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(raw) != nil {
			return
		}
		f.count(q)
		for _, p := range b.tcp(q) {
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
		}
	}
}

func packed(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

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
	var tests sync.WaitGroup // and not t.Parallel: they wait, and use no processor
	defer tests.Wait()
	for name, c := range misbehaviours(world(t)) {
		for _, count := range []int{1, 2} {
			tests.Go(func() {
				t.Run(fmt.Sprint(name, " ×", count), func(t *testing.T) { misbehave(t, c.b, count, c.want) })
			})
		}
	}
}

func misbehave(t *testing.T, b behaviour, count int, wants map[string]string) {
	var at []netip.AddrPort
	for range count {
		at = append(at, misbehaving(t, b).AddrPort)
	}
	s := New(Config{Upstreams: at}, global{wellKnown}, Options{})
	t.Cleanup(s.Close)
	var all sync.WaitGroup
	defer all.Wait()
	for _, what := range []string{"four", "six", "dual", "none", "A four"} {
		all.Go(func() { examine(t, s, what, wants) })
	}
}

// patient is how long a client waits at most: 2 s, which includes what a busy
// machine adds to patience, and half a second for a very busy one.
const patient = 2500 * time.Millisecond

func TestPatience(t *testing.T) {
	if patience > 1500*time.Millisecond {
		t.Errorf("%v leave no time to answer within 2 s", patience)
	}
}

// examine asks twice: what fails, explained and in time; what is to be had, at
// once when it was had before.
func examine(t *testing.T, s *Server, what string, wants map[string]string) {
	qtype, host := uint16(dns.TypeAAAA), what
	if a, is := strings.CutPrefix(what, "A "); is {
		qtype, host = dns.TypeA, a
	}
	want := wants[what]
	if want == "" {
		want = "SERVFAIL"
	}
	for i, limit := range []time.Duration{patient, patient / 2} {
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
			limit = patient // the question may still be asked
		}
		if took > limit {
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
	var records []string
	for i := range 8 {
		records = append(records, fmt.Sprintf("n%d.test. 300 A 192.0.2.1", i))
	}
	z := zone(t, records...)
	drops := behaviour{udp: func(q *dns.Msg) [][]byte {
		if q.Question[0].Qtype == dns.TypeAAAA {
			return nil
		}
		return [][]byte{packed(z(q, ""))}
	}}
	a, b := misbehaving(t, drops), misbehaving(t, drops)
	s := New(Config{Upstreams: []netip.AddrPort{a.AddrPort, b.AddrPort}}, wellKnown, Options{Timeout: 300 * time.Millisecond})
	defer s.Close()
	resolve := func(name string, limit time.Duration) {
		t.Helper()
		began := time.Now()
		if got := lines(ask(t, s, query(name, dns.TypeAAAA), "udp")); !strings.HasSuffix(got, "AAAA 64:ff9b::c000:201") {
			t.Errorf("%s: %s", name, got)
		}
		if took := time.Since(began); took > limit {
			t.Errorf("%s took %v, want at most %v", name, took, limit)
		}
	}
	resolve("n0.test.", sixWait+300*time.Millisecond)
	for deadline := time.Now().Add(5 * time.Second); s.Asking() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // the question about AAAA goes on
	}
	for i := range 8 {
		resolve(fmt.Sprintf("n%d.test.", i), shortWait+250*time.Millisecond)
		resolve(fmt.Sprintf("n%d.test.", i), 250*time.Millisecond)
	}
	told := func() bool {
		list := s.Upstreams()
		return len(list) == 2 && list[0].Trouble == "does not answer about AAAA" && list[1].Trouble == list[0].Trouble && !list[0].Silent
	}
	for deadline := time.Now().Add(5 * time.Second); !told(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nobody is told: %v", s.Upstreams())
		}
	}
}

// TestOneOfTwoDropsAAAA: the other one is asked first from then on, and what the
// first is good for is asked of it.
func TestOneOfTwoDropsAAAA(t *testing.T) {
	good := world(t)
	fine := func(q *dns.Msg) [][]byte { return [][]byte{packed(good(q))} }
	a := misbehaving(t, behaviour{udp: func(q *dns.Msg) [][]byte {
		return ifElse(q.Question[0].Qtype == dns.TypeAAAA, func(*dns.Msg) [][]byte { return nil }, fine)(q)
	}})
	b := misbehaving(t, behaviour{udp: fine})
	s := New(Config{Upstreams: []netip.AddrPort{a.AddrPort, b.AddrPort}, Cache: -1}, wellKnown, Options{})
	defer s.Close()
	for range 20 {
		if got := lines(ask(t, s, query("dual.test.", dns.TypeAAAA), "udp")); got != "NOERROR; 300 AAAA 2001:db8::2" {
			t.Fatal(got)
		}
	}
	if n := a.sixes.Load(); n != 1 {
		t.Errorf("the one that drops AAAA was asked %d times", n)
	}
	ask(t, s, query("dual.test.", dns.TypeA), "udp")
	if n := a.others.Load(); n == 0 {
		t.Error("it is not asked about A any more")
	}
}

// TestPlainIsRemembered is RFC 6891 6.2.2: what one upstream does with EDNS is
// found out once, for a while, and of that one only.
func TestPlainIsRemembered(t *testing.T) {
	good := world(t)
	var withEDNS, without atomic.Int32
	u := misbehaving(t, behaviour{udp: func(q *dns.Msg) [][]byte {
		if q.IsEdns0() != nil {
			withEDNS.Add(1)
			return [][]byte{packed(rcode(q, dns.RcodeFormatError))}
		}
		without.Add(1)
		return [][]byte{packed(good(q))}
	}})
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}, Cache: -1}, wellKnown, Options{})
	defer s.Close()
	now := time.Now()
	s.options.Now = func() time.Time { return now }
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
	now = now.Add(plainMemory + time.Second)
	ask(t, s, query("four.test.", dns.TypeA), "udp")
	if withEDNS.Load() != 2 {
		t.Error("EDNS is not tried again")
	}
}

// TestLossIsNoLackOfEDNS: a lost datagram must not have a server asked without
// EDNS from then on.
func TestLossIsNoLackOfEDNS(t *testing.T) {
	good := world(t)
	var lost atomic.Bool
	u := misbehaving(t, behaviour{udp: func(q *dns.Msg) [][]byte {
		if q.IsEdns0() == nil {
			t.Error("asked without EDNS")
		}
		if lost.Swap(false) {
			return nil
		}
		return [][]byte{packed(good(q))}
	}})
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}, Cache: -1}, wellKnown, Options{})
	defer s.Close()
	for i := range 3 {
		lost.Store(i > 0)
		began := time.Now()
		if got := lines(ask(t, s, query("four.test.", dns.TypeA), "udp")); got != "NOERROR; 300 A 192.0.2.1" {
			t.Fatal(got)
		}
		if took := time.Since(began); took > stagger+300*time.Millisecond {
			t.Errorf("a lost datagram costs %v", took)
		}
	}
}

// TestDeadNamesAreNotDeadServers: names whose own servers are dead do not have
// their resolver looked upon as dead, and nor does what it refuses to say.
func TestDeadNamesAreNotDeadServers(t *testing.T) {
	good := world(t)
	u := misbehaving(t, behaviour{udp: func(q *dns.Msg) [][]byte {
		switch name := q.Question[0].Name; {
		case strings.HasPrefix(name, "dead"):
			return nil
		case !q.RecursionDesired:
			return [][]byte{packed(ifElse(name == "refused.test.", rcode(q, dns.RcodeRefused), referral(q)))}
		}
		return [][]byte{packed(good(q))}
	}})
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}, Cache: -1}, wellKnown, Options{Timeout: 50 * time.Millisecond})
	defer s.Close()
	ask(t, s, query("dead.test.", dns.TypeAAAA), "udp")
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
}
