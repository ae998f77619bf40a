package translator

import (
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

func wellKnownPrefix(c *Config, prefix *string) { *prefix = "64:ff9b::/96" }
func noPrefix(c *Config, prefix *string)        { *prefix = "" }

func udp6(src, dst string) []byte {
	return hdr6{src: src, dst: dst, proto: 17}.packet(udp(src, dst, 1030, 2050, data(20)))
}

func udp4(src, dst string) []byte {
	return hdr4{src: src, dst: dst, proto: 17}.packet(udp(src, dst, 2050, 1030, data(20)))
}

func TestSection1_1_Never(t *testing.T) {
	w := newTestWorker(t)
	for _, a := range []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "169.254.1.1",
		"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"} {
		t.Run("ipv4/"+a, func(t *testing.T) {
			wantVerdict(t, w, udp6(work6, "2001:db8:64::"+a), NeverTranslated)
			wantVerdict(t, w, udp6("2001:db8:64::"+a, server6), NeverTranslated)
			wantVerdict(t, w, udp4(a, work4), NeverTranslated)
			wantVerdict(t, w, udp4(server4, a), NeverTranslated)
		})
	}
	for _, a := range []string{"::", "::1", "fe80::1", "febf::1", "ff02::1", "ffff::1"} {
		t.Run("ipv6/"+a, func(t *testing.T) {
			wantVerdict(t, w, udp6(a, server6), NeverTranslated)
			wantVerdict(t, w, udp6(work6, a), NeverTranslated)
		})
	}
	for _, a := range []string{"126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "223.255.255.255", "1.0.0.0"} {
		t.Run("neighbour/"+a, func(t *testing.T) {
			p := packetOf(udp6(work6, "2001:db8:64::"+a))
			if v := w.Translate(p); v != Forward4 {
				t.Error(v)
			}
		})
	}
}

// An ICMPv4 error may come from anywhere but from many: what a hop with an odd
// address says about path MTUs counts (RFC 7915 4.1).
func TestSection1_1_ErrorFromNowhere(t *testing.T) {
	w := newTestWorker(t)
	inner4 := hdr4{src: work4, dst: server4, proto: 17}.packet(udp(work4, server4, 5, 6, data(10)))
	inner6 := hdr6{src: work6, dst: server6, proto: 17}.packet(udp(work6, server6, 5, 6, data(10)))
	lax := newTestWorker(t, wellKnownPrefix, func(c *Config, _ *string) { c.AllowNonGlobal = true })
	strict := newTestWorker(t, wellKnownPrefix)
	pooled := newTestWorker(t, wellKnownPrefix, func(c *Config, _ *string) { c.ICMPSource6 = netip.MustParsePrefix("2001:db8:f::f/128") })
	none := newTestWorker(t, noPrefix)
	for _, src := range []string{"0.0.0.0", "0.255.255.255", "127.0.0.1", "169.254.0.0", "169.254.1.1", "240.0.0.1", "255.255.255.254"} {
		t.Run(src, func(t *testing.T) {
			in := hdr4{src: src, dst: work4, proto: 1}.packet(icmp4(11, 0, 0, inner4))
			from := "2001:db8:64::" + src
			want := hdr6{src: from, dst: work6, proto: 58, hop: 63}.packet(icmp6(from, work6, 3, 0, 0, inner6))
			wantTranslated(t, w, in, Forward6, want)
			tooBig := hdr4{src: src, dst: work4, proto: 1}.packet(icmp4(3, 4, 1400, inner4))
			wantTranslated(t, w, tooBig, Forward6,
				hdr6{src: from, dst: work6, proto: 58, hop: 63}.packet(icmp6(from, work6, 2, 0, 1420, inner6)))
			// Where the prefix may not hold it, or there is none, it comes from us or our pool.
			far4 := hdr4{src: work4, dst: "9.9.9.9", proto: 17}.packet(udp(work4, "9.9.9.9", 5, 6, data(10)))
			in = hdr4{src: src, dst: work4, proto: 1}.packet(icmp4(11, 0, 0, far4))
			for source, w := range map[string]*Worker{"64:ff9b::" + src: lax, own6: strict, "2001:db8:f::f": pooled} {
				p := packetOf(in)
				if v := w.Translate(p); v != Forward6 || addrText(p.Bytes()[8:24]) != netip.MustParseAddr(source).String() {
					t.Errorf("%v from %s, want %s", v, addrText(p.Bytes()[8:24]), source)
				}
			}
			mapped4 := hdr4{src: work4, dst: other4, proto: 17}.packet(udp(work4, other4, 5, 6, data(10)))
			p := packetOf(hdr4{src: src, dst: work4, proto: 1}.packet(icmp4(11, 0, 0, mapped4)))
			if v := none.Translate(p); v != Forward6 || addrText(p.Bytes()[8:24]) != own6 {
				t.Errorf("without a prefix: %v from %s", v, addrText(p.Bytes()[8:24]))
			}
		})
	}
	for _, src := range []string{"224.0.0.1", "239.255.255.255", "255.255.255.255"} {
		for _, w := range []*Worker{w, lax, strict, none} {
			wantVerdict(t, w, hdr4{src: src, dst: work4, proto: 1}.packet(icmp4(11, 0, 0, inner4)), NeverTranslated)
		}
	}
	in := hdr4{src: "127.0.0.1", dst: work4, proto: 1}.packet(icmp4(8, 0, 0, nil))
	wantVerdict(t, w, in, NeverTranslated) // echo is no error
}

func TestSection1_1_NonGlobal(t *testing.T) {
	strict := newTestWorker(t, wellKnownPrefix)
	lax := newTestWorker(t, wellKnownPrefix, func(c *Config, _ *string) { c.AllowNonGlobal = true })
	other := newTestWorker(t)
	for _, a := range []string{"10.0.0.1", "100.64.0.1", "100.127.255.255", "172.16.0.1", "172.31.255.255",
		"192.0.0.1", "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.200", "203.0.113.77"} {
		t.Run(a, func(t *testing.T) {
			if !nonGlobal(mapping.Addr4From(netip.MustParseAddr(a))) {
				t.Error("counts as global")
			}
			wantVerdict(t, strict, udp4(a, work4), map[bool]Verdict{false: NonGlobal | Replied, true: SpoofedSource}[a == "203.0.113.77"])
			if a != "203.0.113.77" { // which is mapped
				wantVerdict(t, lax, udp4(a, work4), Forward6)
				wantVerdict(t, other, udp4(a, work4), Forward6)
				wantVerdict(t, strict, udp6(work6, "64:ff9b::"+a), NonGlobal|Replied)
				wantVerdict(t, lax, udp6(work6, "64:ff9b::"+a), Forward4)
				wantVerdict(t, other, udp6(work6, "2001:db8:64::"+a), Forward4)
			}
		})
	}
	for _, a := range []string{"9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
		"192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255",
		"198.51.101.0", "203.0.112.255", "203.0.114.0", "8.8.8.8", "192.0.0.9", "192.0.0.10"} {
		t.Run("global/"+a, func(t *testing.T) {
			wantVerdict(t, strict, udp6(work6, "64:ff9b::"+a), Forward4)
			wantVerdict(t, strict, udp4(a, work4), Forward6)
		})
	}
	// Who may not come in is told (RFC 7915 4.4).
	refused := udp4("10.0.0.1", work4)
	wantTranslated(t, newTestWorker(t, wellKnownPrefix), refused, NonGlobal|Replied,
		hdr4{src: own4, dst: "10.0.0.1", proto: 1, id: 1}.packet(icmp4(3, 13, 0, refused)))
	// An explicit mapping is no address under the prefix.
	wantVerdict(t, strict, udp6(other6, "64:ff9b::8.8.8.8"), Forward4)
	// An error from such a hop still counts; only the hop goes unnamed.
	inner4 := hdr4{src: work4, dst: "8.8.8.8", proto: 17}.packet(udp(work4, "8.8.8.8", 5, 6, data(10)))
	inner6 := hdr6{src: work6, dst: "64:ff9b::8.8.8.8", proto: 17}.packet(udp(work6, "64:ff9b::8.8.8.8", 5, 6, data(10)))
	in := hdr4{src: "10.1.1.1", dst: work4, proto: 1}.packet(icmp4(11, 0, 0, inner4))
	wantTranslated(t, strict, in, Forward6,
		hdr6{src: own6, dst: work6, proto: 58, hop: 63}.packet(icmp6(own6, work6, 3, 0, 0, inner6)))
}

func TestSection1_2_Order(t *testing.T) {
	// A mapping inside the prefix goes before the prefix.
	inside := "2001:db8:64::9.9.9.9"
	table, err := mapping.New(netip.MustParsePrefix(testPrefix), append(testMappings(), mapping.Mapping{
		IPv6: netip.MustParsePrefix(inside + "/128"), IPv4: netip.MustParsePrefix("192.0.2.200/32")}))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(testConfig(), table)
	if err != nil {
		t.Fatal(err)
	}
	w := tr.NewWorker()
	wantTranslated(t, w, udp6(inside, server6), Forward4,
		hdr4{src: "192.0.2.200", dst: server4, proto: 17, ttl: 63, id: 1}.packet(udp("192.0.2.200", server4, 1030, 2050, data(20))))
	wantTranslated(t, w, udp4(server4, "192.0.2.200"), Forward6,
		hdr6{src: server6, dst: inside, proto: 17, hop: 63}.packet(udp(server6, inside, 2050, 1030, data(20))))
	// The source of a packet from IPv4 has no mapping but in a client, where it is
	// mapped before it is embedded, and a shared one by its port.
	client := newTestWorker(t, func(c *Config, _ *string) { c.Client = true })
	wantTranslated(t, client, udp4(other4, server4), Forward6,
		hdr6{src: other6, dst: server6, proto: 17, hop: 63}.packet(udp(other6, server6, 2050, 1030, data(20))))
	wantTranslated(t, client, udp4(shared4, server4), Forward6,
		hdr6{src: sharedB6, dst: server6, proto: 17, hop: 63}.packet(udp(sharedB6, server6, 2050, 1030, data(20))))
}

func TestSection1_2_Untranslatable(t *testing.T) {
	// An IPv4 host may have its address under the prefix.
	far6 := "2001:db8:64::192.0.2.99"
	wantTranslated(t, newTestWorker(t), udp4(server4, "192.0.2.99"), Forward6,
		hdr6{src: server6, dst: far6, proto: 17, hop: 63}.packet(udp(server6, far6, 2050, 1030, data(20))))
	none := newTestWorker(t, noPrefix)
	wantVerdict(t, none, udp4(other4, "192.0.2.99"), UntranslatableDestination|Replied)
	wantVerdict(t, none, udp4(server4, work4), UntranslatableSource|Replied)
	wantTranslated(t, none, udp4(other4, work4), Forward6,
		hdr6{src: other6, dst: work6, proto: 17, hop: 63}.packet(udp(other6, work6, 2050, 1030, data(20))))
}

func TestSection1_4_Hairpin(t *testing.T) {
	w := newTestWorker(t)
	d := data(30)
	to := "2001:db8:64::203.0.113.5"
	back := "2001:db8:64::198.51.100.2"
	t.Run("packet", func(t *testing.T) {
		in := hdr6{src: work6, dst: to, proto: 6, hop: 2}.packet(tcp(work6, to, 1, 2, d))
		wantTranslated(t, w, in, Hairpin, hdr6{src: back, dst: other6, proto: 6, hop: 1}.packet(tcp(back, other6, 1, 2, d)))
	})
	t.Run("shared, by port", func(t *testing.T) {
		to, back := "2001:db8:64::198.51.100.9", "2001:db8:64::198.51.100.9"
		in := hdr6{src: sharedA6, dst: to, proto: 17}.packet(udp(sharedA6, to, 1030, 2050, d))
		wantTranslated(t, w, in, Hairpin, hdr6{src: back, dst: sharedB6, proto: 17, hop: 63}.packet(udp(back, sharedB6, 1030, 2050, d)))
	})
	t.Run("superpacket", func(t *testing.T) {
		p := packetOf(hdr6{src: work6, dst: to, proto: 6}.packet(tcp(work6, to, 1, 2, data(5000))))
		p.Offload = Offload{GSOType: GSOTCPv6, GSOSize: 1400}
		if v := w.Translate(p); v != Hairpin || p.GSOType != GSOTCPv6 || p.HdrLen != 60 {
			t.Fatal(v, p.Offload)
		}
		wantPacket(t, p, hdr6{src: back, dst: other6, proto: 6, hop: 63}.packet(tcp(back, other6, 1, 2, data(5000))))
	})
	t.Run("error", func(t *testing.T) {
		inner := hdr6{src: back, dst: other6, proto: 6, hop: 63}.packet(tcp(back, other6, 1, 2, d))
		in := hdr6{src: other6, dst: back, proto: 58}.packet(icmp6(other6, back, 1, 4, 0, inner))
		wantInner := hdr6{src: work6, dst: to, proto: 6, hop: 63}.packet(tcp(work6, to, 1, 2, d))
		wantTranslated(t, w, in, Hairpin, hdr6{src: to, dst: work6, proto: 58, hop: 63}.packet(icmp6(to, work6, 1, 4, 0, wantInner)))
	})
	t.Run("our error about it", func(t *testing.T) {
		to := "2001:db8:64::198.51.100.9"
		in := hdr6{src: work6, dst: to, proto: 17}.packet(udp(work6, to, 1030, 9999, d))
		wantInner := hdr6{src: work6, dst: to, proto: 17, hop: 63}.packet(udp(work6, to, 1030, 9999, d))
		wantTranslated(t, w, in, PortUnassigned|Replied,
			hdr6{src: own6, dst: work6, proto: 58, hop: 64}.packet(icmp6(own6, work6, 1, 4, 0, wantInner)))
	})
	t.Run("hop limit", func(t *testing.T) {
		in := hdr6{src: work6, dst: to, proto: 6, hop: 1}.packet(tcp(work6, to, 1, 2, d))
		wantTranslated(t, w, in, HopLimitExceeded|Replied,
			hdr6{src: own6, dst: work6, proto: 58, hop: 64}.packet(icmp6(own6, work6, 3, 0, 0, in)))
	})
}

func TestOwnAddresses(t *testing.T) {
	w := newTestWorker(t)
	d := data(20)
	own4in6 := "2001:db8:64::" + own4
	in := hdr6{src: work6, dst: own6, proto: 6, hop: 1}.packet(tcp(work6, own6, 1, 2, d))
	wantTranslated(t, w, in, Local, in)
	in = hdr4{src: server4, dst: own4, proto: 6, ttl: 1}.packet(tcp(server4, own4, 1, 2, d))
	wantTranslated(t, w, in, Local, in)
	wantTranslated(t, w, hdr6{src: work6, dst: own4in6, proto: 6}.packet(tcp(work6, own4in6, 1, 2, d)), Local,
		hdr4{src: work4, dst: own4, proto: 6, ttl: 63, id: 1}.packet(tcp(work4, own4, 1, 2, d)))
	// What the local stack answers, and nobody else may say.
	wantIssued := func(w *Worker, in []byte, verdict Verdict, want []byte) {
		t.Helper()
		p := packetOf(in)
		if v := w.TranslateOwn(p); v != verdict {
			t.Fatalf("verdict %v, want %v", v, verdict)
		}
		wantPacket(t, p, want)
		wantVerdict(t, w, in, SpoofedSource)
	}
	none := newTestWorker(t, noPrefix)
	in = hdr4{src: own4, dst: work4, proto: 6}.packet(tcp(own4, work4, 2, 1, d))
	wantIssued(w, in, Forward6, hdr6{src: own4in6, dst: work6, proto: 6}.packet(tcp(own4in6, work6, 2, 1, d)))
	wantIssued(none, in, Forward6, hdr6{src: own6, dst: work6, proto: 6}.packet(tcp(own6, work6, 2, 1, d)))
	asked := hdr4{src: work4, dst: own4, proto: 17}.packet(udp(work4, own4, 5, 6, d))
	asked6 := hdr6{src: work6, dst: own4in6, proto: 17}.packet(udp(work6, own4in6, 5, 6, d))
	in = hdr4{src: own4, dst: work4, proto: 1}.packet(icmp4(3, 3, 0, asked))
	wantIssued(w, in, Forward6, hdr6{src: own4in6, dst: work6, proto: 58}.packet(icmp6(own4in6, work6, 1, 4, 0, asked6)))
	for verdict, in := range map[Verdict][]byte{ // these are right as they are
		Forward4: hdr4{src: own4, dst: server4, proto: 6}.packet(tcp(own4, server4, 2, 1, d)),
		Forward6: hdr6{src: own6, dst: work6, proto: 6}.packet(tcp(own6, work6, 2, 1, d)),
	} {
		wantIssued(w, in, verdict, in)
	}
	// An own IPv6 address inside the prefix is our own all the same.
	inside := "2001:db8:64::1.2.3.4"
	w = newTestWorker(t, func(c *Config, _ *string) { c.IPv6 = netip.MustParseAddr(inside) })
	in = hdr6{src: work6, dst: inside, proto: 6}.packet(tcp(work6, inside, 1, 2, d))
	wantTranslated(t, w, in, Local, in)
	wantVerdict(t, w, hdr6{src: inside, dst: server6, proto: 6}.packet(tcp(inside, server6, 2, 1, d)), SpoofedSource)
	// Where workloads share it, their ports are theirs and the rest is ours.
	w = newTestWorker(t, func(c *Config, _ *string) { c.IPv4 = netip.MustParseAddr(shared4) })
	in = hdr4{src: server4, dst: shared4, proto: 6}.packet(tcp(server4, shared4, 1, 22, d))
	wantTranslated(t, w, in, Local, in)
	wantTranslated(t, w, hdr4{src: server4, dst: shared4, proto: 6}.packet(tcp(server4, shared4, 1, 2050, d)), Forward6,
		hdr6{src: server6, dst: sharedB6, proto: 6, hop: 63}.packet(tcp(server6, sharedB6, 1, 2050, d)))
}
