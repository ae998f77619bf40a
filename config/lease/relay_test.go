package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// rule is written "block[#ports] host lease".
func rule(text string) (r api.Rule) {
	var block, host string
	fmt.Sscan(text, &block, &host, &r.Lease)
	block, set, shared := strings.Cut(block, "#")
	r.IPv4, r.IPv6 = netip.MustParsePrefix(block), netip.MustParsePrefix(host)
	if shared {
		r.Ports = ports.MustParse(set)
	}
	return r
}

func ruleSet(epoch uint64, rules ...string) (s api.RuleSet) {
	s.Epoch = epoch
	for _, text := range rules {
		s.Rules = append(s.Rules, rule(text))
	}
	return s
}

const (
	ruleA  = "198.51.100.1/32 2001:db8::1/128 1"
	ruleB  = "198.51.100.2/32 2001:db8::2/128 2"
	ruleC  = "198.51.100.4/31 2001:db8::4/127 3"
	shared = "198.51.100.9/32#1024-2047 2001:db8::9/128 4"
	beside = "198.51.100.9/32#2048-4095 2001:db8::10/128 5"
)

// TestRelayRules: what a relay takes, and what it does not.
func TestRelayRules(t *testing.T) {
	t.Parallel()
	by := RelayAsked{Boot: "now"}
	start, _, err := Relay{}.Apply(ruleSet(7, ruleA, ruleB, ruleC, shared, beside), by)
	if err != nil || len(start.InForce("now")) != 5 || start.InForce("then") != nil {
		t.Fatalf("%+v, %v", start, err)
	}
	fenced := ruleSet(8, ruleB, ruleC, shared, beside)
	fenced.Fenced = []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}
	without, gone, err := start.Apply(fenced, by)
	if err != nil || gone != 1 || without.Count() != 4 {
		t.Fatalf("%+v, %d, %v", without, gone, err)
	}
	shrunk := ruleSet(8)
	shrunk.Shrink = true
	rewound := ruleSet(1, ruleA, ruleB, ruleC, shared, beside)
	rewound.Rewind = true
	fencedAll := ruleSet(8)
	fencedAll.Fenced = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	named := func(all ...netip.Prefix) api.RuleSet {
		set := ruleSet(8, ruleA, ruleB, ruleC, shared, beside)
		set.Fenced = all
		return set
	}
	all := []string{ruleA, ruleB, ruleC, shared, beside}
	replaced := ruleSet(8, ruleA, ruleB, "198.51.100.4/32 2001:db8::20/128 2", shared, beside)
	replaced.Fenced = []netip.Prefix{netip.MustParsePrefix("198.51.100.4/31")}
	for _, c := range []struct {
		name   string
		from   Relay
		set    api.RuleSet
		want   error
		detail string
	}{
		{"the same", start, ruleSet(7, all...), nil, ""},
		{"of an older view", start, ruleSet(6, all...), api.ErrStale, "6 is older than 7"},
		{"of an older view, by an operator", start, rewound, nil, ""},
		{"without an age", Relay{}, ruleSet(0, ruleA), api.ErrInvalid, "epoch"},
		{"with one less", start, ruleSet(8, all[1:]...), nil, ""},
		{"with many less", start, ruleSet(8, ruleA, ruleB), api.ErrShrinks, "3 of 5 rules"},
		{"with none", start, ruleSet(8), api.ErrShrinks, "5 of 5 rules"},
		{"with none, by an operator", start, shrunk, nil, ""},
		{"with none, all fenced", start, fencedAll, nil, ""},
		{"with an end of nothing", start, named(netip.Prefix{}), api.ErrInvalid, "fenced[0]"},
		{"with an end of IPv6", start, named(rule(ruleA).IPv4, rule(ruleA).IPv6), api.ErrInvalid, "fenced[1]"},
		{"of an older loan", start, ruleSet(8, ruleA, "198.51.100.2/32 2001:db8::3/128 1", ruleC, shared, beside), api.ErrStale, "1 of 198.51.100.2/32 is older than 2"},
		{"of another host by the same loan", start, ruleSet(8, ruleA, "198.51.100.2/32 2001:db8::3/128 2", ruleC, shared, beside), api.ErrInvalid, "by a later one"},
		{"of another host by a later loan", start, ruleSet(8, ruleA, "198.51.100.2/32 2001:db8::3/128 9", ruleC, shared, beside), nil, ""},
		{"of a loan that ended", without, ruleSet(9, all...), api.ErrStale, "lease 1 of 198.51.100.1/32 has ended"},
		{"of a loan that ended, as a part", without, ruleSet(9, "198.51.100.0/31 2001:db8::20/127 1", ruleB, ruleC, shared, beside), api.ErrStale, "has ended"},
		{"of a later loan than ended", without, ruleSet(9, "198.51.100.0/31 2001:db8::20/127 10", ruleB, ruleC, shared, beside), nil, ""},
		{"of an older loan than what ends by it", start, replaced, api.ErrStale, "lease 3 of 198.51.100.4/31 has ended"},
		{"with ports for a prefix", Relay{}, ruleSet(1, "198.51.100.4/31#1-2 2001:db8::4/127 3"), api.ErrInvalid, "rules[0].ports"},
		{"with too short a host", Relay{}, ruleSet(1, "198.51.100.4/31 2001:db8::4/128 3"), api.ErrInvalid, "rules[0].ipv6"},
		{"with one host twice", Relay{}, ruleSet(1, ruleA, "198.51.100.2/32 2001:db8::1/128 2"), api.ErrInvalid, "both lead to"},
		{"with one host's addresses twice", Relay{}, ruleSet(1, ruleC, "198.51.100.9/32 2001:db8::5/128 4"), api.ErrInvalid, "both lead to 2001:db8::5/128"},
		{"with a block twice", Relay{}, ruleSet(1, ruleA, "198.51.100.1/32 2001:db8::2/128 2"), api.ErrInvalid, "overlaps"},
		{"with a block in a block", Relay{}, ruleSet(1, ruleC, "198.51.100.5/32 2001:db8::20/128 2"), api.ErrInvalid, "overlaps"},
		{"with ports twice", Relay{}, ruleSet(1, shared, beside, "198.51.100.9/32#4000-5000 2001:db8::11/128 2"), api.ErrInvalid, "198.51.100.9/32 ports 4000-5000 overlaps 198.51.100.9/32 ports 1024-2047"},
		{"with a part of a whole", Relay{}, ruleSet(1, shared, "198.51.100.9/32 2001:db8::11/128 2"), api.ErrInvalid, "overlaps"},
	} {
		next, _, err := c.from.Apply(c.set, by)
		if !errors.Is(err, c.want) || c.want == nil && err != nil || err != nil && !strings.Contains(err.Error(), c.detail) {
			t.Errorf("a set %s: %v", c.name, err)
		}
		if err != nil && !next.Same(c.from) {
			t.Errorf("a set %s was refused, and changed something", c.name)
		}
	}
	if same, _, _ := start.Apply(ruleSet(7, beside, shared, ruleC, ruleB, ruleA), by); !same.Same(start) {
		t.Errorf("another order is another state: %+v, %+v", same, start)
	}
}

func ruleNumber(i int, lease uint64) api.Rule {
	return api.Rule{Lease: lease, IPv4: netip.PrefixFrom(mapping.Addr4(10<<24+uint32(i)), 32), IPv6: netip.PrefixFrom(mapping.Addr6{Hi: 1 << 61, Lo: uint64(i)}.Addr(), 128)}
}

// TestManyRules: a set of many is judged in a time that grows with it and not with its
// square.
func TestManyRules(t *testing.T) {
	t.Parallel()
	set := api.RuleSet{Epoch: 1}
	for i := range 16_384 {
		set.Rules = append(set.Rules, ruleNumber(i, uint64(i+1)))
	}
	state, _, err := Relay{}.Apply(set, RelayAsked{Boot: "now"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range set.Rules {
		set.Rules[i].Lease += 1 << 20
	}
	set.Epoch++
	next, gone, err := state.Apply(set, RelayAsked{Boot: "now"})
	if err != nil || gone != 16_384 || len(next.Ended()) != 16_384 {
		t.Fatalf("%d gone, %d ended, %v", gone, len(next.Ended()), err)
	}
	if _, _, err := next.Apply(api.RuleSet{Epoch: 3, Rules: state.Rules()}, RelayAsked{}); !errors.Is(err, api.ErrStale) {
		t.Errorf("loans that ended: %v", err)
	}
}
