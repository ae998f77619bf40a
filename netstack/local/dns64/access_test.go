package dns64

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestAccess: who is answered, and who counts as whom.
func TestAccess(t *testing.T) {
	u := script(t, zone(t, "a.test. 300 A 192.0.2.1"))
	pods := netip.MustParsePrefix("2001:db8:6::/64")
	s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}, Clients: []netip.Prefix{netip.MustParsePrefix("2001:db8:5::/48")}}, wellKnown, Options{
		Workload: func(a netip.Addr) (netip.Addr, bool) { return pods.Addr(), pods.Contains(a) },
		Host:     func(a netip.Addr) bool { return a == netip.MustParseAddr("2001:db8:7::1") },
	})
	defer s.Close()
	for from, want := range map[string]client{
		"2001:db8:6::2":     {pods.Addr(), workload},
		"2001:db8:6::3":     {pods.Addr(), workload},
		"2001:db8:7::1":     {netip.MustParseAddr("2001:db8:7::1"), host},
		"2001:db8:5:1::2":   {netip.MustParseAddr("2001:db8:5:1::"), guest},
		"2001:db8:5:2::2":   {netip.MustParseAddr("2001:db8:5:2::"), guest},
		"2001:db8:7::2":     {class: stranger},
		"fe80::1%lo":        {class: stranger},
		"::1":               {class: stranger},
		"::ffff:192.0.2.1":  {class: stranger},
		"64:ff9b::c000:201": {class: stranger},
	} {
		a := netip.MustParseAddr(from)
		if got := s.client(a); got != want {
			t.Errorf("%s is %v, want %v", from, got, want)
		}
		q := query("a.test.", dns.TypeAAAA).SetEdns0(1232, false)
		r := new(dns.Msg)
		if err := r.Unpack(s.Answer(packed(q), a, true)); err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		if refused := r.Rcode == dns.RcodeRefused; refused != (want.class == stranger) {
			t.Errorf("%s: %v", from, r)
		}
		if want.class == stranger {
			why := explanations(r)
			if len(why) != 1 || why[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeProhibited {
				t.Errorf("%s: refused because of %v", from, why)
			}
		}
	}
	if n := s.Stats.Results[Prohibited].Load(); n != 5 {
		t.Errorf("%d refused, want 5", n)
	}
	if from, any := s.Stranger(); !any || !from.IsValid() {
		t.Error("nobody knows who was refused")
	}
}

// TestStrangers: refusals are few, whatever strangers send, and over TCP there
// is one, and the end.
func TestStrangers(t *testing.T) {
	nobody, now := func(netip.Addr) (netip.Addr, bool) { return netip.Addr{}, false }, time.Now()
	s := New(Config{}, wellKnown, Options{Workload: nobody, Now: func() time.Time { return now }})
	defer s.Close()
	told := 0
	for range 10_000 {
		if s.Answer(packed(query("a.test.", dns.TypeA)), netip.MustParseAddr("2001:db8::1"), true) != nil {
			told++
		}
	}
	if told != refusals {
		t.Errorf("%d refusals at once, want %d", told, refusals)
	}
	if n := s.Stats.Results[Prohibited].Load(); n != 10_000 {
		t.Errorf("%d counted", n)
	}
	_, at := start(t, Config{}, wellKnown, Options{Workload: nobody})
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &dns.Conn{Conn: conn}
	r, _, err := new(dns.Client).ExchangeWithConn(query("ipv4only.arpa.", dns.TypeAAAA), c)
	if err != nil || r.Rcode != dns.RcodeRefused {
		t.Errorf("over TCP: %v %v", r, err)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection stays: %v", err)
	}
}

func isTimeout(err error) bool {
	e, is := err.(net.Error)
	return is && e.Timeout()
}
