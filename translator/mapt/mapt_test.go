package mapt_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
	"github.com/natless/natless/translator/ports"
)

func rule(v6, v4 string, ea, offset int) mapt.Rule {
	return mapt.Rule{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4), EABits: ea, PSIDOffset: offset}
}

func must(t testing.TB, list ...mapt.Rule) *mapt.Rules {
	t.Helper()
	r, err := mapt.New(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestExamples are those of RFC 7597 and RFC 7599, appendix A; in example 5 with erratum
// 5324, by which the PSID is 0x34.
func TestExamples(t *testing.T) {
	basic := rule("2001:db8::/40", "192.0.2.0/24", 16, 6)
	alone := rule("2001:db8:12:3400::/56", "192.0.2.18/32", 0, 6)
	sharing := alone
	sharing.PSIDLength, sharing.PSID = 8, 0x34
	for _, c := range []struct {
		name   string
		rule   mapt.Rule
		v6     string
		psid   uint16
		shared bool
	}{
		{"1, 2 and 3: a basic mapping rule", basic, "2001:db8:12:3400:0:c000:212:34", 0x34, true},
		{"4: no EA bits, no sharing", alone, "2001:db8:12:3400:0:c000:212:0", 0, false},
		{"5: no EA bits, with sharing", sharing, "2001:db8:12:3400:0:c000:212:34", 0x34, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := must(t, c.rule)
			v6, v4 := mapping.Addr6From(netip.MustParseAddr(c.v6)), mapping.Addr4From(netip.MustParseAddr("192.0.2.18"))
			a4, ce, covered, ok := r.To4(v6)
			if !ok || !covered || a4 != v4 || ce.PSID() != c.psid || ce.Shared() != c.shared {
				t.Errorf("%s is %v, PSID %#x, shared %v, %v; want 192.0.2.18, PSID %#x", c.v6, mapping.Addr4(a4), ce.PSID(), ce.Shared(), ok, c.psid)
			}
			a6, _, ok := r.To6(v4, 1232)
			if !ok || a6 != v6 {
				t.Errorf("192.0.2.18:1232 is at %v, %v; want %s", a6.Addr(), ok, c.v6)
			}
			_, _, ok = r.To6(v4, 1023)
			if ok == c.shared {
				t.Errorf("port 1023 has an owner: %v", ok)
			}
			if !c.shared {
				return
			}
			set := ce.Ports()
			runs := 0
			for range set.Runs() {
				runs++
			}
			for _, run := range []ports.Range{{First: 1232, Last: 1235}, {First: 2256, Last: 2259}, {First: 63696, Last: 63699}, {First: 64720, Last: 64723}} {
				if !set.ContainsRange(run) {
					t.Errorf("no ports %v among %v", run, set)
				}
			}
			if runs != 63 || set.Size() != 63*4 {
				t.Errorf("%d runs of %d ports, want 63 of 4 each", runs, set.Size())
			}
		})
	}
}

// random makes a rule that is right, of any shape.
func random(r *rand.Rand) mapt.Rule {
	for {
		v6, v4 := 20+r.IntN(45), 8+r.IntN(25)
		out := mapt.Rule{EABits: r.IntN(24), PSIDOffset: r.IntN(16)}
		a6 := [16]byte{0x20, 1, 0xd, 0xb8}
		binary.BigEndian.PutUint32(a6[4:], r.Uint32())
		a4 := [4]byte{5, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}
		out.IPv6 = netip.PrefixFrom(netip.AddrFrom16(a6), v6).Masked()
		out.IPv4 = netip.PrefixFrom(netip.AddrFrom4(a4), v4).Masked()
		if out.EABits == 0 {
			out.PSIDLength = r.IntN(8)
			out.PSID = uint16(r.IntN(1 << out.PSIDLength))
		}
		if out.Validate() == nil {
			return out
		}
	}
}

// TestAgainstRFC holds the arithmetic against the figures written out in digits, for rules
// of any shape.
func TestAgainstRFC(t *testing.T) {
	r := rand.New(rand.NewPCG(7597, 7599))
	for range 2000 {
		one := random(r)
		rules := must(t, one)
		a4 := mapping.Addr4From(one.IPv4.Addr()) | uint32(r.Uint64()&(1<<(32-one.IPv4.Bits())-1))
		port := uint16(r.Uint32())
		digits := fmt.Sprintf("%016b", port)
		k := one.PSIDLength
		if one.EABits > 0 {
			k = max(0, one.EABits-(32-one.IPv4.Bits()))
		}
		psid, want := "", true
		if k > 0 {
			psid = digits[one.PSIDOffset : one.PSIDOffset+k]
			want = one.PSIDOffset == 0 || port>>(16-one.PSIDOffset) != 0
			if one.EABits == 0 && psid != fmt.Sprintf("%0*b", k, one.PSID) {
				want = false
			}
		}
		a6, ce, ok := rules.To6(a4, port)
		if ok != want {
			t.Fatalf("%v: port %d of %v has an owner: %v, want %v", one, port, mapping.Addr4(a4), ok, want)
		}
		if !ok {
			continue
		}
		if wantAddr := reference.CEAddress(one, mapping.Addr4(a4), psid); a6.Addr() != wantAddr {
			t.Fatalf("%v: %v port %d is at %v, want %v", one, mapping.Addr4(a4), port, a6.Addr(), wantAddr)
		}
		back, same, covered, ok := rules.To4(a6)
		if !ok || !covered || back != a4 || same != ce {
			t.Fatalf("%v: %v came back as %v", one, mapping.Addr4(a4), mapping.Addr4(back))
		}
		bit := r.IntN(128)
		flipped := a6
		if bit < 64 {
			flipped.Hi ^= 1 << bit
		} else {
			flipped.Lo ^= 1 << (bit - 64)
		}
		if got, other, _, ok := rules.To4(flipped); ok && got == a4 && other == ce {
			t.Fatalf("%v: %v is the same CE as %v", one, flipped.Addr(), a6.Addr())
		}
	}
}

// TestCEIsAMapping: what a CE has is what a mapping with its ports would have.
func TestCEIsAMapping(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7599))
	for range 300 {
		one := random(r)
		a6, ce, ok := must(t, one).To6(mapping.Addr4From(one.IPv4.Addr()), uint16(r.Uint32()))
		if !ok || !ce.Shared() {
			continue
		}
		set := ce.Ports()
		table, err := mapping.New(netip.Prefix{}, []mapping.Mapping{{IPv6: netip.PrefixFrom(a6.Addr(), 128),
			IPv4: netip.PrefixFrom(one.IPv4.Addr(), 32), Ports: set}})
		if err != nil {
			t.Fatal(err)
		}
		e := table.Lookup6(a6)
		if ce.EchoRange() != e.EchoRange() {
			t.Errorf("%v: echo identifiers %v, of a mapping %v", one, ce.EchoRange(), e.EchoRange())
		}
		base, mask := ce.IdentificationRange()
		if wantBase, wantMask := e.IdentificationRange(); base != wantBase || mask != wantMask {
			t.Errorf("%v: identifications %#x/%#x, of a mapping %#x/%#x", one, base, mask, wantBase, wantMask)
		}
		for port := range 1 << 16 {
			if ce.Owns(uint16(port)) != set.Contains(uint16(port)) {
				t.Fatalf("%v: port %d", one, port)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	good := rule("2001:db8::/40", "192.0.2.0/24", 16, 6)
	with := func(change func(*mapt.Rule)) mapt.Rule {
		r := good
		change(&r)
		return r
	}
	for _, c := range []struct {
		field mapt.Field
		rule  mapt.Rule
	}{
		{mapt.FieldIPv6, with(func(r *mapt.Rule) { r.IPv6 = netip.Prefix{} })},
		{mapt.FieldIPv6, with(func(r *mapt.Rule) { r.IPv6 = netip.MustParsePrefix("10.0.0.0/8") })},
		{mapt.FieldIPv6, with(func(r *mapt.Rule) { r.IPv6 = netip.MustParsePrefix("2001:db8::/65") })},
		{mapt.FieldIPv6, with(func(r *mapt.Rule) { r.IPv6 = netip.MustParsePrefix("2001:db8::1/40") })},
		{mapt.FieldIPv6, with(func(r *mapt.Rule) { r.IPv6 = netip.MustParsePrefix("fe80::/40") })},
		{mapt.FieldIPv4, with(func(r *mapt.Rule) { r.IPv4 = netip.MustParsePrefix("2001:db8::/40") })},
		{mapt.FieldIPv4, with(func(r *mapt.Rule) { r.IPv4 = netip.MustParsePrefix("127.0.0.0/24") })},
		{mapt.FieldIPv4, with(func(r *mapt.Rule) { r.IPv4 = netip.MustParsePrefix("0.0.0.0/0") })},
		{mapt.FieldEABits, with(func(r *mapt.Rule) { r.EABits = -1 })},
		{mapt.FieldEABits, with(func(r *mapt.Rule) { r.EABits = 25 })},
		{mapt.FieldEABits, with(func(r *mapt.Rule) { r.EABits = 0 })},
		{mapt.FieldPSID, with(func(r *mapt.Rule) { r.PSID = 1 })},
		{mapt.FieldPSIDLength, with(func(r *mapt.Rule) { r.PSIDLength = 7 })},
		{mapt.FieldPSIDLength, with(func(r *mapt.Rule) { r.PSIDOffset = 9 })},
		{mapt.FieldPSIDOffset, with(func(r *mapt.Rule) { r.PSIDOffset = 16 })},
		{mapt.FieldPSID, mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8::/56"), IPv4: netip.MustParsePrefix("192.0.2.1/32"), PSIDLength: 2, PSID: 4}},
	} {
		e, wrong := errors.AsType[*mapt.Error](c.rule.Validate())
		if !wrong || e.Field != c.field {
			t.Errorf("%v: %v, want an error about %s", c.rule, c.rule.Validate(), c.field)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, other := range []mapt.Rule{
		rule("2001:db8:0:100::/56", "198.51.100.0/24", 8, 0),
		rule("2001:db9::/40", "192.0.2.128/25", 7, 0),
	} {
		if _, err := mapt.New([]mapt.Rule{good, other}); err == nil {
			t.Errorf("%v beside %v was accepted", other, good)
		}
	}
	if _, err := mapt.New(make([]mapt.Rule, mapt.Most+1)); err == nil {
		t.Error("too many rules were accepted")
	}
}

// TestMany holds the lookup among as many rules as there may be against going through them.
func TestMany(t *testing.T) {
	r := rand.New(rand.NewPCG(64, 7599))
	for _, n := range []int{1, 2, 3, 5, 31, 32, 33, mapt.Most} {
		var list []mapt.Rule
		for len(list) < n {
			more := append(slices.Clip(list), random(r))
			if _, err := mapt.New(more); err == nil && more[len(list)].IPv4.Bits() > 16 && more[len(list)].IPv6.Bits() > 40 {
				list = more
			}
		}
		rules := must(t, list...)
		for range 4000 {
			a4, port := r.Uint32(), uint16(r.Uint32())
			if one := list[r.IntN(n)]; r.IntN(4) > 0 { // at the edges of a prefix, and within
				a4 = mapping.Addr4From(one.IPv4.Addr()) + r.Uint32()>>(r.IntN(32)) - 1
			}
			var want mapping.Addr6
			var found bool
			index := 0
			for i, one := range list {
				if one.IPv4.Contains(mapping.Addr4(a4)) {
					want, _, found = must(t, one).To6(a4, port)
					index = i
				}
			}
			a6, ce, ok := rules.To6(a4, port)
			if ok != found || ok && (a6 != want || ce.Rule() != index) {
				t.Fatalf("%d rules, %v port %d: %v, %v; want %v, %v", n, mapping.Addr4(a4), port, a6.Addr(), ok, want.Addr(), found)
			}
			if !ok {
				a6 = mapping.Addr6{Hi: r.Uint64() & r.Uint64(), Lo: r.Uint64()}
			}
			covers := false
			for _, one := range list {
				covers = covers || one.IPv6.Contains(a6.Addr())
			}
			if back, same, covered, known := rules.To4(a6); covered != covers || ok && (!known || back != a4 || same != ce) {
				t.Fatalf("%d rules: %v is %v, covered %v; want %v, %v", n, a6.Addr(), mapping.Addr4(back), covered, mapping.Addr4(a4), covers)
			}
		}
	}
}
