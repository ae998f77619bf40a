package translator

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
)

// Addresses of ours that no workload has.
const (
	pool4       = "198.18.7.0/29"
	spare4      = "198.18.7.5"       // of a pool
	icmpSource4 = "203.0.114.64/30"  // the ICMP source pools
	hop4        = "203.0.114.66"     //
	icmpSource6 = "2001:db8:f::/112" //
	hop6        = "2001:db8:f::7"    //
)

func withPools(c *Config, _ *string) {
	c.Pools4 = []netip.Prefix{netip.MustParsePrefix(pool4), netip.MustParsePrefix("198.51.100.0/28")}
	c.ICMPSource4, c.ICMPSource6 = netip.MustParsePrefix(icmpSource4), netip.MustParsePrefix(icmpSource6)
}

func in6(a string) string { return "2001:db8:64::" + a }

// oursBoth are the addresses of ours, as IPv4 and under the prefix.
var oursBoth = []string{own4, work4, other4, shared4, "198.51.100.9", spare4, hop4, "198.51.100.14"}

// TestSpoofedSource: what is ours is the source of nothing that comes, whatever
// it is and whomever it is for. A workload's IPv6 address is its own.
func TestSpoofedSource(t *testing.T) {
	w := newTestWorker(t, withPools)
	for _, src := range oursBoth {
		for _, dst := range []string{work4, shared4, own4, server4, spare4} {
			for proto, l4 := range map[uint8][]byte{
				6: tcp(src, dst, 1030, 2050, data(9)), 17: udp(src, dst, 9, 2050, data(9)), 47: data(20),
				1: icmp4(0, 0, 2050<<16, data(9)),
			} {
				h := hdr4{src: src, dst: dst, proto: proto}
				wantVerdict(t, w, h.packet(l4), SpoofedSource)
				h.flags = 0x2000 | 3 // a later fragment
				wantVerdict(t, w, h.packet(l4), SpoofedSource)
				h.flags, h.ttl = 0, 1 // which is not told either
				wantVerdict(t, w, h.packet(l4), SpoofedSource)
			}
			quote := hdr4{src: dst, dst: server4, proto: 17}.packet(udp(dst, server4, 2050, 53, nil))
			wantVerdict(t, w, hdr4{src: src, dst: dst, proto: 1}.packet(icmp4(3, 3, 0, quote)), SpoofedSource)
		}
		for _, dst := range []string{server6, own6, in6(other4), work6} {
			wantVerdict(t, w, udp6(in6(src), dst), SpoofedSource)
		}
	}
	for _, src := range []string{own6, hop6} {
		for _, dst := range []string{server6, own6, in6(other4)} {
			wantVerdict(t, w, udp6(src, dst), SpoofedSource)
		}
	}
	wantVerdict(t, w, udp4("198.18.7.8", work4), Forward6) // behind the pool's end
	wantVerdict(t, w, udp4("198.51.100.16", work4), Forward6)
	wantVerdict(t, w, udp4("203.0.114.68", work4), Forward6)
	// In a client, workloads speak IPv4.
	client := newTestWorker(t, withPools, func(c *Config, _ *string) { c.Client = true })
	wantVerdict(t, client, udp4(work4, server4), Forward6)
}

// TestSpoofedHost: the host shares its address with workloads. It is itself the
// only one that can send from it, but not from their ports.
func TestSpoofedHost(t *testing.T) {
	w := newTestWorker(t, func(c *Config, _ *string) { c.Host4 = netip.MustParseAddr(shared4) })
	from := func(proto, ttl uint8, l4 []byte) []byte {
		return hdr4{src: shared4, dst: work4, proto: proto, ttl: ttl, flags: 0x4000}.packet(l4)
	}
	as := in6(shared4)
	wantTranslated(t, w, from(6, 64, tcp(shared4, work4, 22, 1030, data(9))), Forward6,
		hdr6{src: as, dst: work6, proto: 6, hop: 63}.packet(tcp(as, work6, 22, 1030, data(9))))
	wantVerdict(t, w, from(6, 64, tcp(shared4, work4, 1030, 22, data(9))), SpoofedSource)
	wantVerdict(t, w, from(17, 64, udp(shared4, work4, 2050, 22, data(9))), SpoofedSource)
	wantVerdict(t, w, from(17, 64, udp(shared4, work4, 4000, 22, data(9))), Forward6)
	// An identifier is whose one will: the host's echo stays the host's.
	for _, typ := range []uint8{8, 0} {
		wantTranslated(t, w, from(1, 64, icmp4(typ, 0, 1030<<16, data(9))), Forward6,
			hdr6{src: as, dst: work6, proto: 58, hop: 63}.packet(icmp6(as, work6, 128+(8-typ)/8, 0, 1030<<16, data(9))))
	}
	// Errors are the host's about what came to it, not about what it never saw.
	about := func(port uint16) []byte {
		return from(1, 64, icmp4(3, 3, 0, hdr4{src: work4, dst: shared4, proto: 17}.packet(udp(work4, shared4, 9, port, nil))))
	}
	wantVerdict(t, w, about(53), Forward6)
	wantVerdict(t, w, about(1030), SpoofedSource)
	wantVerdict(t, w, udp6(as, server6), SpoofedSource)
}

// TestWhoAboutWhom: an error about a workload's packet is heard from that workload
// and from hops on the way, and from nobody else, though they know the ports.
func TestWhoAboutWhom(t *testing.T) {
	const sibling6, sibling4 = "2001:db8:7::6", "203.0.113.6" // of the same mapping as other6
	w := newTestWorker(t, withPools)
	// 6→4: a host on the IPv4 side is told about what it sent to whom.
	about := map[string]uint16{work6: 1030, sharedA6: 1030, sharedB6: 2050, other6: 1030, sibling6: 1030}
	hops := map[string]bool{inside6: true, "2001:db8:7:1::1": true, router6: true}
	for _, from := range []string{work6, sharedA6, sharedB6, other6, sibling6, inside6, "2001:db8:7:1::1", router6, own6, hop6, in6(work4), in6(shared4), in6(own4), in6(spare4)} {
		for to, port := range about {
			for _, typ := range []uint8{1, 2, 3} {
				for _, back := range []string{server6, in6(other4), in6(shared4)} { // the last two hairpin
					t.Run(fmt.Sprintf("6to4 %s about %s to %s, type %d", from, to, back, typ), func(t *testing.T) {
						quote := hdr6{src: back, dst: to, proto: 6}.packet(tcp(back, to, 2050, port, nil))[:48] // ports and a sequence number
						in := hdr6{src: from, dst: back, proto: 58}.packet(icmp6(from, back, typ, 0, 0, quote))
						want := SpoofedSource
						if from == to || hops[from] {
							want = map[bool]Verdict{true: Forward4, false: Hairpin}[back == server6]
						}
						wantVerdict(t, w, in, want)
					})
				}
			}
		}
		// About a packet to nobody.
		quote := hdr6{src: server6, dst: "2001:db8:dead::9", proto: 6}.packet(tcp(server6, "2001:db8:dead::9", 80, 1030, nil))
		in := hdr6{src: from, dst: server6, proto: 58}.packet(icmp6(from, server6, 1, 0, 0, quote))
		p := packetOf(in)
		if v := w.Translate(p); !v.IsDrop() || v.Replied() {
			t.Errorf("from %s about nobody's: %v", from, v)
		}
	}
	// 4→6: a workload is told about what it sent; only what left the host.
	for _, from := range []string{server4, router4, "169.254.1.1", "10.0.0.1", own4, work4, other4, sibling4, shared4, spare4, hop4} {
		for whom, port := range map[string]uint16{work4: 1030, shared4: 2050, other4: 1030} {
			for _, to := range []string{server4, "9.9.9.9", work4, shared4, own4, spare4, hop4} {
				t.Run(fmt.Sprintf("4to6 %s to %s about %s", from, whom, to), func(t *testing.T) {
					quote := hdr4{src: whom, dst: to, proto: 6}.packet(tcp(whom, to, port, 1030, nil))[:28]
					in := hdr4{src: from, dst: whom, proto: 1}.packet(icmp4(3, 4, 1400, quote))
					want := Forward6
					for _, ours := range oursBoth {
						if from == ours || from == sibling4 || to == ours {
							want = SpoofedSource
						}
					}
					wantVerdict(t, w, in, want)
				})
			}
		}
	}
}

// TestLeastMTU: what a workload says to be the MTU of its link slows nobody down,
// to hosts on the IPv4 side and to workloads.
func TestLeastMTU(t *testing.T) {
	w := newTestWorker(t)
	for reported, want := range map[uint32]int{0: 1280, 68: 1280, 1279: 1280, 1280: 1280, 1281: 1281, 1500: 1500, 1 << 31: 1500} {
		for back, least := range map[string]int{server6: 20, in6(other4): 0} {
			quote := hdr6{src: back, dst: work6, proto: 6}.packet(tcp(back, work6, 80, 1030, data(1300)))
			p := packetOf(hdr6{src: work6, dst: back, proto: 58}.packet(icmp6(work6, back, 2, 0, reported, quote)))
			v := w.Translate(p)
			b := p.Bytes()
			got := int(b[26])<<8 | int(b[27])
			if v == Hairpin {
				got = int(b[46])<<8 | int(b[47])
			}
			if !v.IsForward() || got != want-least {
				t.Errorf("%d to %s: %v, MTU %d, want %d", reported, back, v, got, want-least)
			}
		}
	}
}

// routed says that the kernel leads a packet to the device, as package route
// has it: what is mapped is IPv4's way here, and the prefix IPv6's.
func routed(w *Worker, c Config, b []byte) bool {
	if b[0]>>4 == 4 {
		a := netip.MustParseAddr(addrText(b[16:20]))
		prefixes := append([]netip.Prefix{c.ICMPSource4, netip.PrefixFrom(c.IPv4, 32)}, c.Pools4...)
		for _, p := range prefixes {
			if p.Contains(a) && a != c.Host4 {
				return true
			}
		}
		return a != c.Host4 && w.t.Table().Lookup4(mapping.Addr4From(a)) != nil
	}
	a := netip.MustParseAddr(addrText(b[24:40]))
	prefix := w.t.Table().Prefix()
	return a == c.IPv6 || c.ICMPSource6.Contains(a) || prefix.Contains(a) && w.t.Table().Lookup6(mapping.Addr6From(a)) == nil
}

// TestNothingCircles: a packet to any address that leads to the device ends there
// once, or leaves for one that does not; so does what is answered.
func TestNothingCircles(t *testing.T) {
	every4 := append([]string{server4, "203.0.113.9", "127.0.0.1", "224.0.0.1"}, oursBoth...)
	every6 := []string{work6, sharedA6, other6, inside6, own6, hop6, "ff02::1"}
	for _, a := range every4 {
		every6 = append(every6, in6(a))
	}
	// A mapping may well cover what is ours.
	covering := mapping.Mapping{IPv6: netip.MustParsePrefix(icmpSource6), IPv4: netip.MustParsePrefix("198.18.8.0/24")}
	every4 = append(every4, "198.18.8.7")
	for name, change := range map[string]func(*Config, *string){
		"prefix":    withPools,
		"no prefix": func(c *Config, p *string) { withPools(c, p); *p = "" },
		"host pool": func(c *Config, p *string) { withPools(c, p); c.Host4 = netip.MustParseAddr(shared4) },
		"own address shared": func(c *Config, p *string) {
			withPools(c, p)
			c.IPv4 = netip.MustParseAddr(shared4)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTestWorker(t, change)
			table, err := mapping.New(w.t.Table().Prefix(), append(testMappings(), covering))
			if err != nil {
				t.Fatal(err)
			}
			c := w.t.Config()
			if err := w.t.Reload(c, table); err != nil {
				t.Fatal(err)
			}
			ended := map[Verdict]int{}
			circle := func(in []byte) {
				p := packetOf(in)
				for passes := 1; ; passes++ {
					v := w.Translate(p)
					ended[v.Reason()]++
					if v.IsForward() && routed(w, c, p.Bytes()) && !unknown(w, c, in) {
						t.Fatalf("%v to %x, which leads here again; it was\n%x", v, p.Bytes()[16:40], in)
					}
					if !v.IsForward() && !v.Replied() || !routed(w, c, p.Bytes()) || unknown(w, c, in) {
						return
					}
					if passes == 2 {
						t.Fatalf("%v, and a third pass of\n%x", v, in)
					}
					p = packetOf(p.Bytes())
				}
			}
			for _, src := range every4 {
				for _, dst := range every4 {
					for _, port := range []uint16{9, 1030, 2050} {
						circle(hdr4{src: src, dst: dst, proto: 17, ttl: 255}.packet(udp(src, dst, 53, port, nil)))
						circle(hdr4{src: src, dst: dst, proto: 6, ttl: 255}.packet(tcp(src, dst, 1030, port, nil)))
						circle(hdr4{src: src, dst: dst, proto: 1, ttl: 255}.packet(icmp4(8, 0, uint32(port)<<16, nil)))
						circle(hdr4{src: src, dst: dst, proto: 1, ttl: 1}.packet(icmp4(0, 0, uint32(port)<<16, nil)))
						quote := hdr4{src: dst, dst: src, proto: 17}.packet(udp(dst, src, port, 53, nil))
						circle(hdr4{src: src, dst: dst, proto: 1, ttl: 255}.packet(icmp4(3, 4, 1400, quote)))
					}
					circle(hdr4{src: src, dst: dst, proto: 51, ttl: 255}.packet(data(20)))
				}
			}
			for _, src := range every6 {
				for _, dst := range every6 {
					for _, port := range []uint16{9, 1030, 2050} {
						circle(hdr6{src: src, dst: dst, proto: 17, hop: 255}.packet(udp(src, dst, 1030, port, nil)))
						circle(hdr6{src: src, dst: dst, proto: 6, hop: 255}.packet(tcp(src, dst, port, 53, nil)))
						circle(hdr6{src: src, dst: dst, proto: 58, hop: 255}.packet(icmp6(src, dst, 128, 0, uint32(port)<<16, nil)))
						circle(hdr6{src: src, dst: dst, proto: 58, hop: 1}.packet(icmp6(src, dst, 129, 0, 1030<<16, nil)))
						quote := hdr6{src: dst, dst: src, proto: 17}.packet(udp(dst, src, 53, port, nil))
						circle(hdr6{src: src, dst: dst, proto: 58, hop: 255}.packet(icmp6(src, dst, 2, 0, 1400, quote)))
					}
					circle(hdr6{src: src, dst: dst, proto: 51, hop: 255}.packet(data(20)))
				}
			}
			for _, v := range []Verdict{Local, SpoofedSource, UntranslatableDestination, NeverTranslated} {
				if ended[v] == 0 {
					t.Errorf("nothing ended as %v: %v", v, ended)
				}
			}
		})
	}
}

// unknown says that a packet goes to an IPv4 address that we have nothing to do
// with: somebody else has routed it here, for hosts that have their addresses in
// the prefix (RFC 6052 1.3), and to those too.
func unknown(w *Worker, c Config, b []byte) bool {
	return b[0]>>4 == 4 && !routed(w, c, b)
}

func TestRanges4(t *testing.T) {
	var prefixes []netip.Prefix
	in := func(a uint32) bool {
		for _, p := range prefixes {
			if p.Contains(mapping.Addr4(a)) {
				return true
			}
		}
		return false
	}
	for _, s := range []string{"198.51.100.0/28", "0.0.0.0/32", "198.51.100.16/30", "198.51.100.4/32", "255.255.255.254/31", "10.0.0.0/8",
		"10.9.9.9/32", "198.51.100.24/32", "11.0.0.0/8", "192.0.2.7/31"} {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	for n := range prefixes {
		all := prefixes
		prefixes = prefixes[:n]
		r := newRanges4(prefixes)
		for _, p := range all {
			first := mapping.Addr4From(p.Masked().Addr())
			last := first | uint32(1<<(32-p.Bits())-1)
			for _, a := range []uint32{first - 1, first, first + 1, first + (last-first)/2, last, last + 1} {
				if r.has(a) != in(a) {
					t.Errorf("%v in %v: %v", mapping.Addr4(a), prefixes, r.has(a))
				}
			}
		}
		for i := 1; i < len(r.list); i++ {
			if r.list[i].first <= r.list[i-1].last+1 {
				t.Errorf("%v of %v touch", r, prefixes)
			}
		}
		prefixes = all
	}
}
