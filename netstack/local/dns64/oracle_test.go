package dns64

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// rfc6052 is the table of RFC 6052 2.2, octet by octet.
type rfc6052 struct{ netip.Prefix }

func (p rfc6052) Network() netip.Prefix { return p.Prefix }

func (p rfc6052) octets() (at []int) {
	for i := p.Bits() / 8; len(at) < 4; i++ {
		if i != 8 {
			at = append(at, i)
		}
	}
	return at
}

func (p rfc6052) Embed(v4 netip.Addr) (netip.Addr, bool) {
	b := p.Masked().Addr().As16()
	for i, at := range p.octets() {
		b[at] = v4.As4()[i]
	}
	return netip.AddrFrom16(b), true
}

func (p rfc6052) Extract(v6 netip.Addr) (v4 netip.Addr, ok bool) {
	var b [4]byte
	for i, at := range p.octets() {
		b[i] = v6.As16()[at]
	}
	return netip.AddrFrom4(b), p.Contains(v6)
}

func (p rfc6052) Translatable(netip.Addr) bool { return true }

// start serves on loopback, UDP and TCP, until the test ends.
func start(t testing.TB, c Config, prefix Prefix, o Options) (*Server, netip.AddrPort) {
	t.Helper()
	at := freePort(t)
	pc, err := net.ListenPacket("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	if o.Patience == 0 {
		o.Patience = 20 * time.Second // for a busy machine
	}
	s := New(c, prefix, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, pc, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, at
}

// names are all that the oracle is asked about, for several types.
func names() []string {
	list := strings.Fields(`v4only v4short v4many v4private v6only dual textonly mx srv alias alias2 alias3 aliasdual
		aliasnone aliastext aliasout host.tree dual.tree none.tree loop1 mapped x.wild y.x.wild
		b.empty empty a.b.empty upper UPPER V4oNLy zero big nothing a.nothing host1 host250 ns`)
	for i, n := range list {
		list[i] = n + ".natless.test."
	}
	return append(list, "natless.test.", "host.other.test.", "dual.other.test.", "nothing.other.test.", "other.test.")
}

// TestOracle compares with unbound's dns64 module, answer by answer, for every
// prefix length, over TCP so that nothing is cut.
func TestOracle(t *testing.T) {
	for _, prefix := range []string{
		"64:ff9b::/96", "2001:db8:122:344::/96", "2001:db8:122:344::/64",
		"2001:db8:122:300::/56", "2001:db8:122::/48", "2001:db8:100::/40", "2001:db8::/32",
	} {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			recursive, oracle := unbounds(t, prefix)
			_, at := start(t, Config{Upstreams: []netip.AddrPort{recursive}}, rfc6052{netip.MustParsePrefix(prefix)}, Options{})
			asked := 0
			for _, name := range names() {
				for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeA, dns.TypeTXT, dns.TypeMX, dns.TypeSRV, dns.TypeNS, dns.TypeSOA} {
					for _, do := range []bool{false, true} {
						q := new(dns.Msg).SetQuestion(name, qtype)
						q.SetEdns0(4096, do)
						want, got := digest(t, exchange(t, "tcp", oracle, q)), digest(t, exchange(t, "tcp", at, q))
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("%s %s do=%v (-unbound +natless):\n%s", name, dns.Type(qtype), do, diff)
						}
						asked++
					}
				}
			}
			t.Logf("%d answers the same", asked)
		})
	}
}

func exchange(t testing.TB, network string, at netip.AddrPort, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 8e9, UDPSize: 4096}
	r, _, err := c.Exchange(q, at.String())
	if err != nil {
		t.Fatalf("%s %s %s: %v", network, at, q.Question[0].String(), err)
	}
	return r
}

// digest is what two servers must agree on: the code, and the answer's records
// in any order within one type, TTLs to the seconds that pass on a busy machine.
func digest(t testing.TB, m *dns.Msg) []string {
	var lines []string
	for _, rr := range m.Answer {
		h := *rr.Header()
		rdata := strings.TrimPrefix(rr.String(), h.String())
		lines = append(lines, fmt.Sprint(strings.ToLower(h.Name), " ~", (h.Ttl+19)/20*20, " ", dns.Type(h.Rrtype), " ", rdata))
	}
	slices.Sort(lines)
	flags := fmt.Sprint(dns.RcodeToString[m.Rcode], " ra=", m.RecursionAvailable, " aa=", m.Authoritative, " tc=", m.Truncated, " ad=", m.AuthenticatedData)
	return append([]string{flags}, lines...)
}
