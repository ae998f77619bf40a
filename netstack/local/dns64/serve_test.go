package dns64

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/natless/natless/tests/netns"
)

// TestFailover: a dead and a silent upstream cost one timeout, then are asked
// last.
func TestFailover(t *testing.T) {
	silent := script(t, func(*dns.Msg, string) *dns.Msg { return nil })
	refusing := script(t, func(q *dns.Msg, _ string) *dns.Msg { return rcode(q, dns.RcodeRefused) })
	good := script(t, zone(t, "a.test. 300 A 192.0.2.1", "b.test. 300 A 192.0.2.2"))
	s := serverFor(t, freePort(t), silent.AddrPort, refusing.AddrPort, good.AddrPort)
	if got := lines(ask(t, s, query("a.test.", dns.TypeAAAA), "udp")); got != "NOERROR; 200 AAAA 64:ff9b::c000:201" {
		t.Error(got)
	}
	before := silent.count()
	if got := lines(ask(t, s, query("b.test.", dns.TypeA), "udp")); got != "NOERROR; 300 A 192.0.2.2" {
		t.Error(got)
	}
	if silent.count() != before {
		t.Error("a silent upstream was asked again at once")
	}
}

func TestNoUpstreamAnswers(t *testing.T) {
	s := serverFor(t, freePort(t))
	began := time.Now()
	for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeA, dns.TypePTR} {
		if r := ask(t, s, query("a.test.", qtype), "udp"); r.Rcode != dns.RcodeServerFailure {
			t.Error(r)
		}
	}
	if took := time.Since(began); took > totalTimeout {
		t.Errorf("took %v", took)
	}
}

func TestResolvConf(t *testing.T) {
	good := script(t, zone(t, "a.test. 300 A 192.0.2.1", "b.test. 300 A 192.0.2.1"))
	file := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Now()
	var asked []string
	s := New(Config{}, wellKnown, Options{
		ResolvConf: file, Timeout: 200e6, Self: []netip.Addr{netip.MustParseAddr("2001:db8::1")},
		Now: func() time.Time { return now },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			asked = append(asked, address)
			return net.Dial(network, good.String())
		},
	})
	defer s.Close()
	if r := ask(t, s, query("a.test.", dns.TypeA), "udp"); r.Rcode != dns.RcodeServerFailure || len(asked) != 0 {
		t.Errorf("without the file: %v %v", asked, r)
	}
	os.WriteFile(file, []byte("nameserver 2001:db8::1\nnameserver fe80::1%eth0\n"), 0o600)
	now = now.Add(time.Minute)
	if r := ask(t, s, query("b.test.", dns.TypeA), "udp"); lines(r) != "NOERROR; 300 A 192.0.2.1" {
		t.Error(r)
	}
	if fmt.Sprint(asked) != "[[fe80::1%eth0]:53]" { // never ourselves
		t.Error(asked)
	}
}

// TestLargeAnswers: what is cut on the way from the upstream is asked for over
// TCP; what is too long for the client is cut, with TC.
func TestLargeAnswers(t *testing.T) {
	recursive, _ := unbounds(t, "64:ff9b::/96")
	_, at := start(t, Config{Upstreams: []netip.AddrPort{recursive}}, wellKnown, Options{})
	q := query("big.natless.test.", dns.TypeAAAA)
	if r := exchange(t, "tcp", at, q); len(r.Answer) != 120 || r.Truncated {
		t.Errorf("over TCP: %d records, TC %v", len(r.Answer), r.Truncated)
	}
	for size, limit := range map[uint16]int{0: 512, 100: 512, 512: 512, 1000: 1000, 1232: 1232, 4096: 1232} {
		q := q.Copy()
		if size > 0 {
			q.SetEdns0(size, false)
		}
		packed, _ := q.Pack()
		conn, err := net.Dial("udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(packed)
		buf := make([]byte, 65535)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := conn.Read(buf)
		conn.Close()
		r := new(dns.Msg)
		if err != nil || r.Unpack(buf[:n]) != nil || !r.Truncated || n > limit || n < limit/2 {
			t.Errorf("EDNS size %d: %d octets (at most %d), TC %v, %v", size, n, limit, r.Truncated, err)
		}
		if (r.IsEdns0() != nil) != (size > 0) {
			t.Errorf("EDNS size %d: OPT in the answer: %v", size, r.IsEdns0())
		}
	}
}

// TestClients: dig and delv get synthetic answers, over UDP, after truncation,
// and over TCP.
func TestClients(t *testing.T) {
	netns.Require(t, "dig", "delv")
	recursive, _ := unbounds(t, "64:ff9b::/96")
	_, at := start(t, Config{Upstreams: []netip.AddrPort{recursive}}, wellKnown, Options{})
	where := []string{"@" + at.Addr().String(), "-p", fmt.Sprint(at.Port())}
	for _, c := range []struct{ args, want string }{
		{"dig +short v4only.natless.test AAAA", "64:ff9b::c000:221"},
		{"dig +short +tcp alias3.natless.test AAAA", "alias2.natless.test.\nalias.natless.test.\nv4only.natless.test.\n64:ff9b::c000:221"},
		{"dig +short +noedns dual.natless.test AAAA", "2001:db8:1::35"},
		{"dig +short -x 64:ff9b::192.0.2.33", "v4only.natless.test."},
		{"dig +short ipv4only.arpa AAAA", "64:ff9b::c000:aa\n64:ff9b::c000:ab"},
		{"dig +short +dnssec +cd v4only.natless.test AAAA", ""},
		{"dig +cookie +nsid +subnet=2001:db8::/32 +short v4only.natless.test AAAA", "64:ff9b::c000:221"},
		{"delv +noroot -i +short v4only.natless.test A", "192.0.2.33"},
	} {
		fields := strings.Fields(c.args)
		out, err := exec.Command(fields[0], append(where, fields[1:]...)...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.args, err, got, c.want)
		}
	}
	out, err := exec.Command("dig", append(where, "big.natless.test", "AAAA", "+short")...).Output()
	if n := bytes.Count(out, []byte("64:ff9b::")); err != nil || n != 120 {
		t.Errorf("dig after truncation: %d addresses, %v", n, err)
	}
}

// TestSingleFlight: a hundred clients, one question to the upstream for each type.
func TestSingleFlight(t *testing.T) {
	records := zone(t, "a.test. 300 A 192.0.2.1")
	u := script(t, func(q *dns.Msg, network string) *dns.Msg {
		time.Sleep(100 * time.Millisecond)
		return records(q, network)
	})
	s := serverFor(t, u.AddrPort)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if got := lines(ask(t, s, query("a.test.", dns.TypeAAAA), "udp")); got != "NOERROR; 200 AAAA 64:ff9b::c000:201" {
				t.Error(got)
			}
		})
	}
	wg.Wait()
	if u.count() != 2 {
		t.Errorf("asked %v", u.asked)
	}
}

// TestHostile sends 10,000 random and malformed queries to the listeners and
// then asks something sensible.
func TestHostile(t *testing.T) {
	recursive, _ := unbounds(t, "64:ff9b::/96")
	s, at := start(t, Config{Upstreams: []netip.AddrPort{recursive}, Cache: 1000}, wellKnown, Options{Timeout: 300e6})
	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go io.Copy(io.Discard, conn)
	rng := rand.New(rand.NewPCG(1, 2))
	lost := 0
	for i := range 10_000 {
		q := randomQuery(rng)
		if i%50 != 0 {
			conn.Write(q)
			if i%50 == 1 {
				lost = keepUp(s, i, lost)
			}
			continue
		}
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Write(binary.BigEndian.AppendUint16(nil, uint16(len(q))))
		c.Write(q)
		c.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); s.InProgress()+s.Asking() > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if got := lines(exchange(t, "udp", at, query("v4only.natless.test.", dns.TypeAAAA))); !strings.HasSuffix(got, "AAAA 64:ff9b::c000:221") {
		t.Error(got)
	}
	if p := s.Stats.Panics.Load(); p != 0 {
		t.Errorf("%d panics", p)
	}
	s.cache.mu.Lock()
	cached := len(s.cache.entries)
	s.cache.mu.Unlock()
	t.Logf("%d queries, %d dropped by our bound, %d asked of the upstream, cache %d", s.Stats.Queries.Load(), s.Stats.Dropped.Load(), s.Stats.Upstream.Load(), cached)
	if s.Stats.Queries.Load() < 8_000 || cached > 1000 {
		t.Error("too few queries arrived, or the cache grew over its bound")
	}
}

// keepUp waits for a server that has not read most of what was sent, so that
// the socket does not drop it, and gives how much is lost all the same.
func keepUp(s *Server, sent, lost int) int {
	for range 20 {
		if sent-lost-int(s.Stats.Queries.Load()) < 200 {
			return lost
		}
		time.Sleep(time.Millisecond)
	}
	return sent - int(s.Stats.Queries.Load())
}

// randomQuery is a valid query for a name of the zone, changed to some degree.
func randomQuery(rng *rand.Rand) []byte {
	all := names()
	name := all[rng.IntN(len(all))]
	if rng.IntN(2) == 0 {
		name = fmt.Sprintf("r%d.%s", rng.IntN(1000), name)
	}
	q := query(name, uint16(rng.IntN(70)))
	if rng.IntN(3) == 0 {
		q.SetEdns0(uint16(rng.IntN(65536)), rng.IntN(2) == 0)
	}
	if rng.IntN(8) == 0 {
		q.Question[0].Qclass, q.Opcode = uint16(rng.IntN(5)), rng.IntN(16)
	}
	packed, _ := q.Pack()
	switch rng.IntN(4) {
	case 0:
		for range 1 + rng.IntN(4) {
			packed[rng.IntN(len(packed))] ^= byte(1 << rng.IntN(8))
		}
	case 1:
		packed = packed[:rng.IntN(len(packed)+1)]
	case 2:
		noise := make([]byte, rng.IntN(40))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		packed = append(packed, noise...)
	}
	return packed
}

// TestSlowClients: as many idle connections as may be are there; datagrams are
// answered all the same, and the connections end.
func TestSlowClients(t *testing.T) {
	u := script(t, zone(t, "a.test. 300 A 192.0.2.1"))
	s, at := start(t, Config{Upstreams: []netip.AddrPort{u.AddrPort}}, wellKnown, Options{})
	var conns []net.Conn
	for range maxConnections + 10 {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte{0}) // half a length
		conns = append(conns, c)
	}
	if got := lines(exchange(t, "udp", at, query("a.test.", dns.TypeAAAA))); got != "NOERROR; 200 AAAA 64:ff9b::c000:201" {
		t.Error(got)
	}
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(readTimeout + 3*time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Fatalf("a slow connection is still there: %v", err)
		}
	}
	if s.Stats.Dropped.Load() == 0 {
		t.Error("more connections than the bound were taken")
	}
	if r := exchange(t, "tcp", at, query("a.test.", dns.TypeAAAA)); len(r.Answer) != 1 {
		t.Error(r)
	}
}

// TestRefusals: what is answered with an error, and what with nothing.
// Whatever is answered is counted once, by its code.
func TestResponsesAreCounted(t *testing.T) {
	u := script(t, zone(t, "a.test. 300 IN A 192.0.2.7"))
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}}, wellKnown, Options{})
	defer s.Close()
	ask := func(m *dns.Msg) {
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		s.Answer(packed, netip.IPv6Loopback(), true)
	}
	question := func(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }
	ask(question("a.test.", dns.TypeA))
	ask(question("a.test.", dns.TypeA))
	ask(question("none.test.", dns.TypeA))
	ask(question("a.test.", dns.TypeAXFR))
	bad := question("a.test.", dns.TypeA).SetEdns0(1232, false)
	bad.IsEdns0().SetVersion(1)
	ask(bad)
	s.Answer(append(make([]byte, 5), 1, 0, 0, 0, 0, 0, 0), netip.IPv6Loopback(), true) // a question announced, and none there
	s.Answer([]byte{1}, netip.IPv6Loopback(), true)                                    // not answered at all
	want := map[int]uint64{dns.RcodeSuccess: 2, dns.RcodeNameError: 1, dns.RcodeRefused: 1, dns.RcodeBadVers: 1, dns.RcodeFormatError: 1}
	for code := range s.Stats.Responses {
		if n := s.Stats.Responses[code].Load(); n != want[code] {
			t.Errorf("%d with code %d, want %d", n, code, want[code])
		}
	}
	if n, size := s.Cached(); n != 2 || size == 0 {
		t.Errorf("%d answers of %d octets in the cache, want 2", n, size)
	}
}

func TestRefusals(t *testing.T) {
	s := serverFor(t, freePort(t))
	chaos := query("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := new(dns.Msg).SetUpdate("test.")
	future := query("a.test.", dns.TypeA).SetEdns0(1232, false)
	future.IsEdns0().SetVersion(1)
	twoOPT := query("a.test.", dns.TypeA).SetEdns0(1232, false).SetEdns0(1232, false)
	two := query("a.test.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	for name, c := range map[string]struct {
		q    *dns.Msg
		want int
	}{
		"another class": {chaos, dns.RcodeRefused}, "update": {update, dns.RcodeNotImplemented},
		"zone transfer": {query("test.", dns.TypeAXFR), dns.RcodeRefused}, "EDNS 1": {future, dns.RcodeBadVers},
		"two OPT": {twoOPT, dns.RcodeFormatError}, "two questions": {two, dns.RcodeFormatError},
	} {
		if r := ask(t, s, c.q, "udp"); r.Rcode != c.want {
			t.Errorf("%s: %s", name, dns.RcodeToString[r.Rcode])
		}
	}
	response := query("a.test.", dns.TypeA)
	response.Response = true
	packed, _ := response.Pack()
	for name, q := range map[string][]byte{"a response": packed, "nothing": nil, "half a header": make([]byte, 11)} {
		if out := s.Answer(q, netip.IPv6Loopback(), true); out != nil {
			t.Errorf("%s was answered: %x", name, out)
		}
	}
}

// FuzzAnswer: any query, and any answer from the upstream, gives a message that
// parses, for the same query, within the client's bound.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"v4only.natless.test.", reverse("64:ff9b::192.0.2.1"), "ipv4only.arpa."} {
		q := query(name, dns.TypeAAAA).SetEdns0(1232, true)
		packed, _ := q.Pack()
		r := new(dns.Msg).SetReply(q)
		r.Answer = []dns.RR{parse(f, name+" 60 IN A 192.0.2.1"), parse(f, name+" 60 IN CNAME a.test.")}
		reply, _ := r.Pack()
		f.Add(packed, reply, true)
		q.Question[0].Qtype = dns.TypePTR
		packed, _ = q.Pack()
		f.Add(packed, reply, false)
	}
	f.Fuzz(func(t *testing.T, q, reply []byte, udp bool) {
		s := New(Config{Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}}, global{wellKnown}, Options{
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
				return &echo{reply: reply, stream: network == "tcp"}, nil
			},
		})
		defer s.Close()
		out := s.Answer(q, netip.IPv6Loopback(), udp)
		if p := s.Stats.Panics.Load(); p != 0 {
			t.Fatal("panic")
		}
		if out == nil {
			return
		}
		if len(out) < headerLength || !bytes.Equal(out[:2], q[:2]) || udp && len(out) > maxUDP {
			t.Fatalf("%d octets: %x", len(out), out)
		}
		if err := new(dns.Msg).Unpack(out); err != nil {
			t.Fatalf("%v: %x", err, out)
		}
	})
}
