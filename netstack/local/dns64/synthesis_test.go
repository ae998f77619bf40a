package dns64

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// lines is an answer section in short, after its code.
func lines(r *dns.Msg) string {
	out := []string{dns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		h := rr.Header()
		out = append(out, fmt.Sprint(h.Ttl, " ", dns.Type(h.Rrtype), " ", strings.TrimPrefix(rr.String(), h.String())))
	}
	return strings.Join(out, "; ")
}

// TestSynthesis has the rules of RFC 6147 5.1 that unbound's module does not
// share or show.
func TestSynthesis(t *testing.T) {
	records := zone(t,
		"four.test. 3600 A 192.0.2.1",
		"mapped.test. 3600 A 192.0.2.2", "mapped.test. 50 AAAA ::ffff:192.0.2.2",
		"mixed.test. 3600 A 192.0.2.3", "mixed.test. 50 AAAA ::ffff:192.0.2.3", "mixed.test. 50 AAAA 2001:db8::3",
		"bare.test. 50 AAAA ::ffff:192.0.2.4",
		"private.test. 3600 A 10.0.0.1",
		"half.test. 100 A 10.0.0.1", "half.test. 100 A 192.0.2.5",
		"servfail.test. 3600 A 192.0.2.6", "notimp.test. 3600 A 192.0.2.7", "silent.test. 3600 A 192.0.2.8",
		"forged.test. 3600 A 192.0.2.9", "wrong.test. 3600 A 192.0.2.10",
	)
	u := script(t, func(q *dns.Msg, network string) *dns.Msg {
		if q.Question[0].Qtype != dns.TypeAAAA {
			return records(q, network)
		}
		switch strings.ToLower(q.Question[0].Name) {
		case "servfail.test.":
			return rcode(q, dns.RcodeServerFailure)
		case "notimp.test.":
			return rcode(q, dns.RcodeNotImplemented)
		case "silent.test.":
			return nil
		case "wrong.test.": // an answer to another question is not an answer
			r := records(q, network)
			r.Question[0].Name = "other.test."
			return r
		case "forged.test.":
			r := rcode(q, dns.RcodeServerFailure).SetEdns0(1232, true)
			r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus}}
			return r
		}
		return records(q, network)
	})
	s := serverFor(t, u.AddrPort)
	for _, c := range []struct{ name, want string }{
		{"four.test.", "NOERROR; 200 AAAA 64:ff9b::c000:201"},                                   // 5.1.7: the SOA bounds the TTL
		{"FOUR.test.", "NOERROR; 200 AAAA 64:ff9b::c000:201"},                                   // in any case
		{"mapped.test.", "NOERROR; 600 AAAA 64:ff9b::c000:202"},                                 // 5.1.4, and 600 s without an SOA
		{"mixed.test.", "NOERROR; 50 AAAA 2001:db8::3"},                                         // 5.1.4: the others remain
		{"bare.test.", "NOERROR"},                                                               // never the excluded one
		{"private.test.", "NOERROR"},                                                            // RFC 6052 3.1
		{"half.test.", "NOERROR; 100 AAAA 64:ff9b::c000:205"},                                   // RFC 6052 3.1
		{"nothing.test.", "NXDOMAIN"},                                                           // 5.1.2
		{"servfail.test.", "NOERROR; 60 AAAA 64:ff9b::c000:206"},                                // 5.1.2
		{"notimp.test.", "NOERROR; 60 AAAA 64:ff9b::c000:207"},                                  // 5.1.2
		{"silent.test.", "NOERROR; 60 AAAA 64:ff9b::c000:208"},                                  // 5.1.3
		{"forged.test.", "SERVFAIL"},                                                            // 5.5 item 2
		{"wrong.test.", "NOERROR; 60 AAAA 64:ff9b::c000:20a"},                                   // as silence
		{"ipv4only.arpa.", "NOERROR; 86400 AAAA 64:ff9b::c000:aa; 86400 AAAA 64:ff9b::c000:ab"}, // RFC 7050
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lines(ask(t, s, query(c.name, dns.TypeAAAA), "udp")); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Contains(u.asked, "nothing.test. A") {
		t.Error("asked for A after NXDOMAIN")
	}
}

func TestExcludeIsConfigurable(t *testing.T) {
	u := script(t, zone(t, "a.test. 9 AAAA 2001:db8:bad::1", "a.test. 9 A 192.0.2.1", "b.test. 9 AAAA ::ffff:192.0.2.1"))
	s := serverFor(t, u.AddrPort)
	s.Reload(Config{Upstreams: []netip.AddrPort{u.AddrPort}, Exclude: []netip.Prefix{netip.MustParsePrefix("2001:db8:bad::/48")}})
	for name, want := range map[string]string{
		"a.test.": "NOERROR; 9 AAAA 64:ff9b::c000:201",
		"b.test.": "NOERROR; 9 AAAA ::ffff:192.0.2.1",
	} {
		if got := lines(ask(t, s, query(name, dns.TypeAAAA), "udp")); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestDNSSECBits is RFC 6147 5.5: what CD and DO do, and who gets AD.
func TestDNSSECBits(t *testing.T) {
	records := zone(t, "four.test. 300 A 192.0.2.1", "six.test. 300 AAAA 2001:db8::1",
		"four.test. 300 RRSIG A 13 2 300 20300101000000 20200101000000 1 test. AAAA",
		"six.test. 300 RRSIG AAAA 13 2 300 20300101000000 20200101000000 1 test. AAAA")
	var mu sync.Mutex
	var passed []string
	u := script(t, func(q *dns.Msg, network string) *dns.Msg {
		mu.Lock()
		passed = append(passed, fmt.Sprint(q.CheckingDisabled, q.IsEdns0().Do()))
		mu.Unlock()
		r := records(q, network)
		r.AuthenticatedData = true
		if q.IsEdns0().Do() && len(r.Answer) > 0 {
			q.Question[0].Qtype = dns.TypeRRSIG
			r.Answer = append(r.Answer, records(q, network).Answer...)
			q.Question[0].Qtype = r.Question[0].Qtype
		}
		r.SetEdns0(1232, q.IsEdns0().Do())
		return r
	})
	for _, c := range []struct {
		name   string
		do, cd bool
		want   string
	}{
		{"four.test.", false, false, "synthetic ad=false sigs=0"},
		{"four.test.", false, true, "synthetic ad=false sigs=0"},
		{"four.test.", true, false, "synthetic ad=false sigs=0"}, // not validated by us
		{"four.test.", true, true, "none ad=true sigs=0"},        // item 3: never
		{"six.test.", false, false, "real ad=false sigs=0"},      // item 1
		{"six.test.", true, false, "real ad=true sigs=1"},
		{"six.test.", true, true, "real ad=true sigs=1"},
	} {
		s := serverFor(t, u.AddrPort)
		q := query(c.name, dns.TypeAAAA).SetEdns0(1232, c.do)
		q.CheckingDisabled = c.cd
		r := ask(t, s, q, "udp")
		kind, sigs := "none", 0
		for _, rr := range r.Answer {
			switch a := rr.(type) {
			case *dns.AAAA:
				kind = "real"
				if ip, _ := netip.AddrFromSlice(a.AAAA); wellKnown.Contains(ip) {
					kind = "synthetic"
				}
			case *dns.RRSIG:
				sigs++
			}
		}
		got := fmt.Sprintf("%s ad=%v sigs=%d", kind, r.AuthenticatedData, sigs)
		if got != c.want || r.CheckingDisabled != c.cd || r.IsEdns0().Do() != c.do {
			t.Errorf("%s do=%v cd=%v: %s, want %s\n%v", c.name, c.do, c.cd, got, c.want, r)
		}
		mu.Lock()
		if passed[0] != fmt.Sprint(c.cd, c.do) {
			t.Errorf("%s do=%v cd=%v: upstream saw %s", c.name, c.do, c.cd, passed[0])
		}
		passed = nil
		mu.Unlock()
	}
}

// TestDiscovery is RFC 8880: answered here, whatever upstreams are like.
func TestDiscovery(t *testing.T) {
	u := script(t, zone(t))
	s := serverFor(t, u.AddrPort)
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"ipv4only.arpa.", dns.TypeA, "NOERROR; 86400 A 192.0.0.170; 86400 A 192.0.0.171"},
		{"IPv4Only.ARPA.", dns.TypeAAAA, "NOERROR; 86400 AAAA 64:ff9b::c000:aa; 86400 AAAA 64:ff9b::c000:ab"},
		{"ipv4only.arpa.", dns.TypeTXT, "NOERROR"},
		{"ipv4only.arpa.", dns.TypeSOA, "NOERROR; 86400 SOA ipv4only.arpa. . 1 86400 7200 604800 86400"},
		{"x.ipv4only.arpa.", dns.TypeA, "NXDOMAIN"},
		{"170.0.0.192.in-addr.arpa.", dns.TypePTR, "NOERROR; 86400 PTR ipv4only.arpa."},
		{"171.0.0.192.in-addr.arpa.", dns.TypePTR, "NOERROR; 86400 PTR ipv4only.arpa."},
		{reverse("64:ff9b::192.0.0.171"), dns.TypePTR, "NOERROR; 86400 PTR ipv4only.arpa."},
	} {
		r := ask(t, s, query(c.name, c.qtype).SetEdns0(1232, true), "udp")
		if got := lines(r); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, dns.Type(c.qtype), got, c.want)
		}
		if len(r.Answer) == 0 && !has(r.Ns, dns.TypeSOA) {
			t.Errorf("%s: denied without an SOA", c.name)
		}
	}
	if n := u.count(); n != 0 {
		t.Errorf("the upstream was asked %d times: %v", n, u.asked)
	}
}

func reverse(a string) string {
	name, err := dns.ReverseAddr(netip.MustParseAddr(a).StringExpanded())
	if err != nil {
		panic(err)
	}
	return name
}

// TestReverse compares PTR answers with unbound's for addresses inside the
// prefix and outside.
func TestReverse(t *testing.T) {
	recursive, oracle := unbounds(t, "64:ff9b::/96")
	_, at := start(t, Config{Upstreams: []netip.AddrPort{recursive}}, wellKnown, Options{})
	for _, a := range []string{
		"64:ff9b::192.0.2.33", "64:ff9b::192.0.2.34", "64:ff9b::192.0.2.36", "64:ff9b::192.0.2.99",
		"2001:db8:1::1", "2001:db8:1::2",
	} {
		q := query(reverse(a), dns.TypePTR)
		want, got := digest(t, exchange(t, "tcp", oracle, q)), digest(t, exchange(t, "tcp", at, q))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-unbound +natless):\n%s", a, diff)
		}
	}
	// RFC 2317: the in-addr.arpa name is an alias, which unbound passes on with
	// an owner that nobody asked for; we give its end.
	got := lines(exchange(t, "udp", at, query(reverse("64:ff9b::192.0.2.35"), dns.TypePTR)))
	if want := "NOERROR; 300 PTR dual.natless.test."; got != want {
		t.Errorf("RFC 2317 delegation: %s, want %s", got, want)
	}
}

func TestParseIP6Arpa(t *testing.T) {
	for _, a := range []string{"::", "64:ff9b::192.0.2.33", "2001:db8:1234:5678:9abc:def0:1122:3344"} {
		got, ok := parseIP6Arpa(strings.ToUpper(reverse(a)))
		if want := netip.MustParseAddr(a); !ok || got != want {
			t.Errorf("%s: %v %v", a, got, ok)
		}
	}
	whole := reverse("64:ff9b::192.0.2.33")
	for _, bad := range []string{"", ".", "ip6.arpa.", whole[2:], "g" + whole[1:], "00" + whole[2:], "0." + whole} {
		if a, ok := parseIP6Arpa(bad); ok {
			t.Errorf("%q is %v", bad, a)
		}
	}
}

// TestDenials: the SOA record of a denial is there once, and of a zone that the
// name asked for lies in (RFC 2308 section 3), or of the end of its aliases.
func TestDenials(t *testing.T) {
	soa := parse(t, "2.0.192.in-addr.arpa. 300 SOA ns.test. h.test. 1 1 1 1 200")
	records := zone(t, "private.test. 300 A 10.0.0.1", "text.test. 300 TXT x", "alias.test. 300 CNAME text.test.")
	u := script(t, func(q *dns.Msg, network string) *dns.Msg {
		switch name := q.Question[0].Name; {
		case strings.HasSuffix(name, "1.2.0.192.in-addr.arpa."):
			r := rcode(q, dns.RcodeNameError)
			r.Ns = []dns.RR{soa, parse(t, "1.2.0.192.in-addr.arpa. 300 NSEC 3.2.0.192.in-addr.arpa. PTR")}
			return r
		case strings.HasSuffix(name, ".in-addr.arpa."):
			r := new(dns.Msg).SetReply(q)
			r.Ns = []dns.RR{soa}
			return r
		case name == "private.test." && q.Question[0].Qtype == dns.TypeA:
			r := records(q, network)
			r.Ns = []dns.RR{parse(t, "test. 300 NS ns.test.")}
			return r
		case name == "alias.test.":
			r := new(dns.Msg).SetReply(q)
			r.Answer = []dns.RR{parse(t, "alias.test. 300 CNAME text.test.")}
			q.Question[0].Name = "text.test."
			r.Ns = records(q, network).Ns
			return r
		}
		return records(q, network)
	})
	for _, prefix := range []string{"64:ff9b::/96", "2001:db8:122:344::/64", "2001:db8:122:300::/56", "2001:db8:122::/48", "2001:db8:100::/40", "2001:db8::/32"} {
		p := rfc6052{netip.MustParsePrefix(prefix)}
		s := New(Config{Upstreams: []netip.AddrPort{u.AddrPort}}, global{p}, Options{})
		t.Cleanup(s.Close)
		ptr := func(v4 string) string {
			v6, _ := p.Embed(netip.MustParseAddr(v4))
			return reverse(v6.String())
		}
		for _, c := range []struct {
			name  string
			qtype uint16
			rcode int
			zone  string // "": that of the prefix
		}{
			{ptr("192.0.2.1"), dns.TypePTR, dns.RcodeNameError, ""},
			{ptr("192.0.2.11"), dns.TypePTR, dns.RcodeNameError, ""},
			{ptr("192.0.2.2"), dns.TypePTR, dns.RcodeSuccess, ""},
			{"private.test.", dns.TypeAAAA, dns.RcodeSuccess, "test."},
			{"text.test.", dns.TypeAAAA, dns.RcodeSuccess, "test."},
			{"alias.test.", dns.TypeAAAA, dns.RcodeSuccess, "test."},
			{"none.test.", dns.TypeAAAA, dns.RcodeNameError, "test."},
		} {
			r := ask(t, s, query(c.name, c.qtype), "udp")
			if r.Rcode != c.rcode || len(r.Ns) != 1 || has(r.Answer, c.qtype) {
				t.Errorf("%s under %s:\n%v", c.name, prefix, r)
				continue
			}
			zone := r.Ns[0].Header().Name
			under := 2 * (32 - p.Bits()/4) // characters before the zone
			if c.zone == "" {
				c.zone = c.name[under:]
			}
			if _, is := r.Ns[0].(*dns.SOA); !is || zone != c.zone {
				t.Errorf("%s under %s: denied by %v, want an SOA record of %s", c.name, prefix, r.Ns[0], c.zone)
			}
		}
	}
}
