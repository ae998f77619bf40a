package translator

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
)

// manyRules are as many rules as there may be: CEs that share an address, that have one
// each or a prefix, behind an offset and without one, and CEs by themselves.
func manyRules() (all []mapt.Rule) {
	for i := range byte(mapt.Most) {
		v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0x40 | i}), 40)
		r := mapt.Rule{IPv6: v6, IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, i, 0}), 24), EABits: 16, PSIDOffset: 6}
		switch i % 5 {
		case 1:
			r.PSIDOffset = 0
		case 2:
			r.EABits = 8
		case 3:
			r.EABits = 5
		case 4:
			r.IPv4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, i, 7}), 32)
			r.EABits, r.PSIDLength, r.PSID = 0, 4, 9
		}
		all = append(all, r)
	}
	return all
}

// cesOf are CEs of the rules of a worker, in turn, each with a port of its own.
func cesOf(w *Worker, n int) (v6, v4 []netip.Addr, port []uint16) {
	rules := w.t.snapshot.Load().rules
	all, r := rules.All(), rand.New(rand.NewPCG(7599, 1))
	for len(v6) < n {
		from := all[len(v6)%len(all)].IPv4
		a4 := mapping.Addr4From(from.Addr()) | r.Uint32()&(1<<(32-from.Bits())-1)
		p := uint16(r.Uint32()) | 1<<15
		if a6, _, ok := rules.To6(a4, p); ok {
			v6, v4, port = append(v6, a6.Addr()), append(v4, mapping.Addr4(a4)), append(port, p)
		}
	}
	return v6, v4, port
}

// TestPlainCE: of packets of CEs and such as are nearly theirs, the short way makes what the
// general one makes, and counts the same.
func TestPlainCE(t *testing.T) {
	for name, change := range map[string]func(*Config, *string){
		"one rule": withRules(), "many rules": withRules(manyRules()...),
		"the host has an address of CEs": func(c *Config, s *string) {
			withRules()(c, s)
			c.Host4, c.ZeroTrafficClass = netip.MustParseAddr(ce4), true
		},
		"a mapping has some": withRules(mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8::/42"), IPv4: netip.MustParsePrefix("198.51.100.0/24"), EABits: 14}),
		"the own address is a CE's": func(c *Config, s *string) {
			withRules()(c, s)
			c.IPv6, c.IPv4 = netip.MustParseAddr(ce6), netip.MustParseAddr(other4C)
		},
		"the well-known prefix": func(c *Config, s *string) { withRules(manyRules()...)(c, s); *s = "64:ff9b::/96" },
	} {
		t.Run(name, func(t *testing.T) {
			short, long := newTestWorker(t, change), newTestWorker(t, change)
			prefix := short.t.Table().Prefix()
			v6, v4, port := cesOf(short, 256)
			r := rand.New(rand.NewPCG(7599, 2))
			plain := [2]int{}
			for n := range 40_000 {
				i := r.IntN(len(v6))
				b := cePacket(r, n%2 == 0, prefix, v6[i], v4[i], port[i])
				p := [2]*Packet{packetOf(b), packetOf(b)}
				v := [2]Verdict{short.Translate(p[0]), general(long, p[1])}
				if v[0] != v[1] || (v[0].IsForward() || v[0].Replied()) && !bytes.Equal(p[0].Bytes(), p[1].Bytes()) {
					t.Fatalf("% x: %v and %v\n% x\n% x", b, v[0], v[1], p[0].Bytes(), p[1].Bytes())
				}
				if v[0] == Forward4 || v[0] == Forward6 {
					plain[n%2]++
				}
			}
			if min(plain[0], plain[1]) < 4000 {
				t.Errorf("%d packets were translated", plain)
			}
			one, other := short.t.snapshot.Load().rules, long.t.snapshot.Load().rules
			for i := range one.All() {
				if one.Counts(i) != other.Counts(i) {
					t.Errorf("rule %d: %+v and %+v", i, one.Counts(i), other.Counts(i))
				}
			}
		})
	}
}

// cePacket is a packet from a CE or for one, at times with a change.
func cePacket(r *rand.Rand, six bool, prefix netip.Prefix, v6, v4 netip.Addr, port uint16) []byte {
	table, err := mapping.New(prefix, nil)
	if err != nil {
		panic(err)
	}
	a6, far4 := v6.String(), "8.8.4.4"
	far6 := table.Embed(mapping.Addr4From(netip.MustParseAddr(far4))).Addr().String()
	payload := data(r.IntN(60))
	var b []byte
	switch proto := []uint8{6, 17}[r.IntN(2)]; {
	case six && proto == 6:
		b = hdr6{src: a6, dst: far6, proto: 6, class: 9}.packet(tcp(a6, far6, port, 80, payload))
	case six:
		b = hdr6{src: a6, dst: far6, proto: 17}.packet(udp(a6, far6, port, 53, payload))
	case proto == 6:
		b = hdr4{src: far4, dst: v4.String(), proto: 6, flags: 0x4000, tos: 9}.packet(tcp(far4, v4.String(), 80, port, payload))
	default:
		b = hdr4{src: far4, dst: v4.String(), proto: 17}.packet(udp(far4, v4.String(), 53, port, payload))
	}
	for range r.IntN(2) {
		b[1+r.IntN(min(len(b), 60)-1)] ^= 1 << r.IntN(8)
	}
	repair(b, 3)
	return b
}

// border is a worker of a border relay, which has rules and no mapping.
func border(b *testing.B, rules []mapt.Rule) *Worker {
	b.Helper()
	c := testConfig()
	withRules(rules...)(&c, nil)
	table, err := mapping.New(netip.MustParsePrefix(testPrefix), nil)
	if err != nil {
		b.Fatal(err)
	}
	t, err := New(c, table)
	if err != nil {
		b.Fatal(err)
	}
	return t.NewWorker()
}

// BenchmarkTranslateCE is a million CEs of one rule, and those of as many rules as there may
// be, beside BenchmarkTranslateShared; "general" is without the short way.
func BenchmarkTranslateCE(b *testing.B) {
	million := mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8:4000::/40"), IPv4: netip.MustParsePrefix("100.64.0.0/12"), EABits: 24, PSIDOffset: 6}
	for _, rules := range [][]mapt.Rule{{million}, manyRules()} {
		for _, way := range []string{"", "/general"} {
			w := border(b, rules)
			v6, v4, port := cesOf(w, 1024)
			for _, c := range benchCases {
				if c.bytes > 100 {
					continue
				}
				b.Run(fmt.Sprintf("6to4/%s/rules=%d%s", c.name, len(rules), way), func(b *testing.B) {
					runWay(b, w, benchPackets(b, v6, v4, port, build6(c.proto, c.bytes)), Forward4, way != "")
				})
				b.Run(fmt.Sprintf("4to6/%s/rules=%d%s", c.name, len(rules), way), func(b *testing.B) {
					runWay(b, w, benchPackets(b, v6, v4, port, build4(c.proto, c.bytes)), Forward6, way != "")
				})
			}
		}
	}
}
