package generate

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/tests/reference"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapt"
)

// mapRules are rules of MAP-T of every kind: CEs that share an address behind an offset
// and without one, that have an address each, or a prefix, and one by itself.
func mapRules() []mapt.Rule {
	rule := func(v6, v4 string, ea, offset int) mapt.Rule {
		return mapt.Rule{IPv6: netip.MustParsePrefix(v6), IPv4: netip.MustParsePrefix(v4), EABits: ea, PSIDOffset: offset}
	}
	one := rule("2001:db8:80:6700::/56", "5.9.4.1/32", 0, 6)
	one.PSIDLength, one.PSID = 6, 0x15
	return []mapt.Rule{
		rule("2001:db8:40::/44", "5.9.0.0/24", 12, 6),
		rule("2001:db8:50::/44", "5.9.1.0/28", 4, 6),
		rule("2001:db8:60:4000::/60", "5.9.2.0/24", 4, 6),
		rule("2001:db8:70::/48", "5.9.3.0/30", 7, 0),
		one,
	}
}

// RuleWorlds are those with rules of MAP-T.
func RuleWorlds() []World {
	worlds := []World{
		world("map-t", "64:ff9b::/96", translator.Config{AllowNonGlobal: true}),
		world("map-t-64", "2001:db8:122:344::/64", translator.Config{MTU4: 1400, MTU6: 1300, ICMPSource4: netip.MustParsePrefix("192.0.2.64/30")}),
	}
	rules := mapRules()
	worlds[1].FirstUse = []netip.Prefix{netip.MustParsePrefix("2001:db8:a::/64"), netip.MustParsePrefix("2001:db9::2/128")}
	for i := range worlds {
		w := &worlds[i]
		var err error
		if w.Rules, err = mapt.New(rules); err != nil {
			panic(err)
		}
		for _, r := range rules {
			w.Pools4 = append(w.Pools4, r.IPv4) // as a configuration has it
		}
	}
	return worlds
}

// customers4 are addresses that CEs have.
func (g *Generator) customers4() []netip.Addr {
	return addresses("5.9.0.0", "5.9.0.18", "5.9.0.18", "5.9.1.3", "5.9.1.15", "5.9.2.77", "5.9.3.1", "5.9.3.2", "5.9.4.1")
}

// customer6 is the address of a CE; at times nearly one.
func (g *Generator) customer6() netip.Addr {
	v4, ports := pick(g, g.customers4()...), ""
	for _, r := range g.World.Rules.All() {
		if !r.IPv4.Contains(v4) {
			continue
		}
		k := max(0, r.EABits-(32-r.IPv4.Bits()))
		if k > 0 {
			ports = fmt.Sprintf("%0*b", k, g.IntN(1<<min(k, 2)))
		} else if r.PSIDLength > 0 {
			ports = fmt.Sprintf("%0*b", r.PSIDLength, r.PSID)
		}
		b := reference.CEAddress(r, v4, ports).As16()
		if g.chance(6) {
			b[g.IntN(16)] ^= 1 << g.IntN(8)
		}
		return netip.AddrFrom16(b)
	}
	panic("an address without a rule")
}
