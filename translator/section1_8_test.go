package translator

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// Addresses of the rule that the tests are about: 2001:db8:4000::/40 ↔ 203.0.114.0/24,
// 16 EA bits.
const (
	ceNet4  = "203.0.114.0/24"
	ce4     = "203.0.114.18"
	ce6     = "2001:db8:4012:3400:0:cb00:7212:34" // PSID 0x34: 1232-1235, 2256-2259 and so on
	other4C = "203.0.114.19"
	other6C = "2001:db8:4013:100:0:cb00:7213:1" // PSID 1: 1028-1031 and so on
)

func withRules(list ...mapt.Rule) func(*Config, *string) {
	return func(c *Config, _ *string) {
		if len(list) == 0 {
			list = []mapt.Rule{{IPv6: netip.MustParsePrefix("2001:db8:4000::/40"), IPv4: netip.MustParsePrefix(ceNet4), EABits: 16, PSIDOffset: 6}}
		}
		rules, err := mapt.New(list)
		if err != nil {
			panic(err)
		}
		c.Rules = rules
	}
}

// TestSection1_8_Examples are examples 1 and 2 of RFC 7599, appendix A: a border relay
// translates for a CE, both ways.
func TestSection1_8_Examples(t *testing.T) {
	const (
		ce, host = "2001:db8:12:3400:0:c000:212:34", "2001:db8:ffff:0:a:203:400:0"
		ce4      = "192.0.2.18"
		host4    = "10.2.3.4"
	)
	c := testConfig()
	c.IPv6 = netip.MustParseAddr("2001:db8:fffe::1")
	prefix := "2001:db8:ffff::/64"
	withRules(mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8::/40"), IPv4: netip.MustParsePrefix("192.0.2.0/24"), EABits: 16, PSIDOffset: 6})(&c, &prefix)
	table, err := mapping.New(netip.MustParsePrefix(prefix), nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(c, table)
	if err != nil {
		t.Fatal(err)
	}
	w := tr.NewWorker()
	d := data(1300)
	wantTranslated(t, w, hdr6{src: ce, dst: host, proto: 6}.packet(tcp(ce, host, 1232, 80, d)), Forward4,
		hdr4{src: ce4, dst: host4, proto: 6, ttl: 63, flags: 0x4000}.packet(tcp(ce4, host4, 1232, 80, d)))
	wantTranslated(t, w, hdr4{src: host4, dst: ce4, proto: 6, flags: 0x4000}.packet(tcp(host4, ce4, 80, 1232, d)), Forward6,
		hdr6{src: host, dst: ce, proto: 6, hop: 63}.packet(tcp(host, ce, 80, 1232, d)))
	if got := c.Rules.Counts(0); got != (mapt.Counts{To4: 1, To6: 1}) {
		t.Errorf("counts %+v, want one packet each way", got)
	}
}

func TestSection1_8_Source(t *testing.T) {
	w := newTestWorker(t, withRules())
	rules := w.t.snapshot.Load().rules
	send := func(src string, port uint16, want Verdict) {
		t.Helper()
		wantVerdict(t, w, hdr6{src: src, dst: server6, proto: 17}.packet(udp(src, server6, port, 53, data(9))), want)
	}
	for _, port := range []uint16{1232, 1235, 2256, 64723} {
		send(ce6, port, Forward4)
	}
	for _, port := range []uint16{1231, 1236, 208, 0, 65535} { // 208 has the PSID, and an A of 0
		send(ce6, port, PortOutsideSet|Replied)
	}
	for _, src := range []string{
		"2001:db8:4012:3400:0:cb00:7212:35", // another PSID,
		"2001:db8:4012:3400:0:cb00:7213:34", // another IPv4 address,
		"2001:db8:4012:3401:0:cb00:7212:34", // another subnet,
		"2001:db8:4012:3400:1:cb00:7212:34", // and another interface identifier
		"2001:db8:4012:3400::1",
	} {
		in := hdr6{src: src, dst: server6, proto: 17}.packet(udp(src, server6, 1232, 53, data(9)))
		wantTranslated(t, w, in, UntranslatableSource|Replied, error6To(src, 1, 5, in))
	}
	if got := rules.Counts(0); got != (mapt.Counts{To4: 4, Outside: 5, Spoofed: 5}) {
		t.Errorf("counts %+v, want 4 translated, 5 from ports of others, 5 spoofed", got)
	}
}

// error6To is an ICMPv6 error of ours about a packet from src.
func error6To(src string, typ, code uint8, about []byte) []byte {
	return hdr6{src: own6, dst: src, proto: 58}.packet(icmp6(own6, src, typ, code, 0, about))
}

func TestSection1_8_Order(t *testing.T) {
	w := newTestWorker(t, withRules(mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8:4000::/40"), IPv4: netip.MustParsePrefix("203.0.112.0/20"), EABits: 12}))
	wantTranslated(t, w, hdr4{src: server4, dst: other4, proto: 17}.packet(udp(server4, other4, 53, 7, data(8))), Forward6,
		hdr6{src: server6, dst: other6, proto: 17, hop: 63}.packet(udp(server6, other6, 53, 7, data(8)))) // its mapping is within the rule's prefix
	const whole6 = "2001:db8:4020:0:0:cb00:7200:0"
	wantTranslated(t, w, hdr4{src: server4, dst: "203.0.114.0", proto: 17}.packet(udp(server4, "203.0.114.0", 53, 7, data(8))), Forward6,
		hdr6{src: server6, dst: whole6, proto: 17, hop: 63}.packet(udp(server6, whole6, 53, 7, data(8))))
}

func TestSection1_8_Ours(t *testing.T) {
	w := newTestWorker(t, withRules())
	wantVerdict(t, w, hdr4{src: ce4, dst: work4, proto: 17}.packet(udp(ce4, work4, 1232, 7, data(8))), SpoofedSource)
	src := "2001:db8:64::203.0.114.18"
	wantVerdict(t, w, hdr6{src: src, dst: server6, proto: 17}.packet(udp(src, server6, 1232, 7, data(8))), SpoofedSource)
	// A port that no CE has goes nowhere.
	in := hdr4{src: server4, dst: ce4, proto: 17}.packet(udp(server4, ce4, 53, 208, data(8)))
	wantVerdict(t, w, in, PortUnassigned|Replied)
}

// TestSection1_8_Hairpin: one CE reaches another, a workload with a mapping reaches one,
// and is reached.
func TestSection1_8_Hairpin(t *testing.T) {
	w := newTestWorker(t, withRules())
	at := func(a string) string { return "2001:db8:64::" + a }
	for _, c := range []struct {
		name       string
		src6, src4 string
		sport      uint16
		dst4, dst6 string
		dport      uint16
		want       Verdict
	}{
		{name: "one CE to another", src6: ce6, src4: ce4, sport: 1232, dst4: other4C, dst6: other6C, dport: 1028, want: Hairpin},
		{name: "a CE to itself", src6: ce6, src4: ce4, sport: 1232, dst4: ce4, dst6: ce6, dport: 2256, want: Hairpin},
		{name: "a CE to a workload", src6: ce6, src4: ce4, sport: 1232, dst4: work4, dst6: work6, dport: 80, want: Hairpin},
		{name: "a workload to a CE", src6: work6, src4: work4, sport: 80, dst4: ce4, dst6: ce6, dport: 1232, want: Hairpin},
		{name: "to a port of nobody", src6: ce6, src4: ce4, sport: 1232, dst4: other4C, dst6: other6C, dport: 80, want: PortUnassigned},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := hdr6{src: c.src6, dst: at(c.dst4), proto: 17}.packet(udp(c.src6, at(c.dst4), c.sport, c.dport, data(8)))
			if c.want != Hairpin {
				p := packetOf(in)
				if got := w.Translate(p).Reason(); got != c.want {
					t.Fatalf("verdict %v, want %v", got, c.want)
				}
				return
			}
			wantTranslated(t, w, in, Hairpin,
				hdr6{src: at(c.src4), dst: c.dst6, proto: 17, hop: 63}.packet(udp(at(c.src4), c.dst6, c.sport, c.dport, data(8))))
		})
	}
}

// TestSection1_8_ErrorSender: an error of a CE is about its own packets, from whichever of
// its addresses it comes.
func TestSection1_8_ErrorSender(t *testing.T) {
	w := newTestWorker(t, withRules())
	about := func(dst string, port uint16) []byte {
		return hdr6{src: server6, dst: dst, proto: 17}.packet(udp(server6, dst, 53, port, data(8)))
	}
	for _, c := range []struct {
		name   string
		src    string
		about  []byte
		want   Verdict
		source string
	}{
		{"the CE", ce6, about(ce6, 1232), Forward4, ce4},
		{"a host behind it", "2001:db8:4012:34ff::77", about(ce6, 1232), Forward4, own4},
		{"a router on the way", inside6, about(ce6, 1232), Forward4, own4},
		{"another CE", other6C, about(ce6, 1232), SpoofedSource, ""},
		{"a host behind another", "2001:db8:4013:1ff::77", about(ce6, 1232), SpoofedSource, ""},
		{"about a workload", ce6, about(work6, 1232), SpoofedSource, ""},
		{"of a workload", work6, about(ce6, 1232), SpoofedSource, ""},
		{"about a port of another", ce6, about(ce6, 1028), PortOutsideSet, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := packetOf(hdr6{src: c.src, dst: server6, proto: 58}.packet(icmp6(c.src, server6, 1, 4, 0, c.about)))
			if got := w.Translate(p); got != c.want {
				t.Fatalf("verdict %v, want %v", got, c.want)
			}
			if c.want == Forward4 {
				if got := mapping.Addr4(header4(p.Bytes()).src()).String(); got != c.source {
					t.Errorf("source %s, want %s", got, c.source)
				}
			}
		})
	}
}

// TestSection1_8_NoAllocs: a CE costs no memory.
func TestSection1_8_NoAllocs(t *testing.T) {
	w := newTestWorker(t, withRules())
	out := hdr6{src: ce6, dst: server6, proto: 17}.packet(udp(ce6, server6, 1232, 53, data(64)))
	in := hdr4{src: server4, dst: ce4, proto: 17}.packet(udp(server4, ce4, 53, 1232, data(64)))
	p := packetOf(out)
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range [][]byte{out, in} {
			p.Start, p.End = Headroom, Headroom+len(b)
			copy(p.Buf[Headroom:], b)
			if v := w.Translate(p); !v.IsForward() {
				t.Fatal(v)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRulesNeedAPrefix: it is the CEs' default mapping rule.
func TestRulesNeedAPrefix(t *testing.T) {
	c, prefix := testConfig(), ""
	withRules()(&c, &prefix)
	table, err := mapping.New(netip.Prefix{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(c, table); err == nil {
		t.Error("rules without a prefix were accepted")
	}
	for _, overlapping := range []string{"2001:db8:4012::/96", "2001:db8::/32"} {
		if table, err = mapping.New(netip.MustParsePrefix(overlapping), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := New(c, table); err == nil {
			t.Errorf("rules within the prefix %s were accepted", overlapping)
		}
		good := newTestWorker(t, withRules()).t
		if good.Edit(func(*mapping.Table) (*mapping.Table, error) { return table, nil }) == nil {
			t.Errorf("the prefix became %s, where rules are", overlapping)
		}
	}
	c.Client = true
	if c.Validate() == nil {
		t.Error("rules of a client were accepted")
	}
}
