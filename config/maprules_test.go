package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/mapt"
)

const mapRule = `map:
  rules:
    - {ipv6: "2001:db8:4000::/40", ipv4: 198.18.80.0/24, ea_bits: 16}
`

// TestMapRules: what CEs have is the translator's rules, and is brought here.
func TestMapRules(t *testing.T) {
	c, err := Parse([]byte(least + mapRule))
	if err != nil {
		t.Fatal(err)
	}
	want := mapt.Rule{IPv6: netip.MustParsePrefix("2001:db8:4000::/40"), IPv4: netip.MustParsePrefix("198.18.80.0/24"), EABits: 16, PSIDOffset: 6}
	tr := c.Translator([16]byte{})
	if all := tr.Rules.All(); len(all) != 1 || all[0] != want {
		t.Errorf("rules %v, want %v", all, want)
	}
	if mapped := c.Mapped4(); len(mapped) != 1 || mapped[0] != want.IPv4 {
		t.Errorf("%v are brought here, want %v", mapped, want.IPv4)
	}
	if len(tr.Pools4) != 1 || tr.Pools4[0] != want.IPv4 {
		t.Errorf("%v are ours, want %v: the fast path knows no rules", tr.Pools4, want.IPv4)
	}
	if err := c.CheckBlock(netip.MustParsePrefix("198.18.80.128/25")); err == nil || !strings.Contains(err.Error(), "map.rules[0]") {
		t.Errorf("a block of CEs' addresses: %v", err)
	}
}

func TestMapRulesRefused(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"no prefix": {"addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::1}\nmappings: [{ipv6: 2001:db8:6::2, ipv4: 198.51.100.2}]\n" + mapRule,
			"map.rules: a border relay needs a prefix"},
		"the rule":   {least + "map: {rules: [{ipv6: 2001:db8:4000::/40, ipv4: 198.18.80.0/24, ea_bits: 25}]}", "config:3: map.rules[0].ea_bits: 25 behind a /40"},
		"no ipv4":    {least + "map: {rules: [{ipv6: 2001:db8:4000::/40}]}", "config:3: map.rules[0].ipv4: missing"},
		"two rules":  {least + mapRule + "    - {ipv6: 2001:db8:4080::/48, ipv4: 198.18.80.128/25, ea_bits: 7}", "config:6: map.rules[1].ipv6: 2001:db8:4080::/48 overlaps map.rules[0] (2001:db8:4000::/40): of a CE nobody could say by which it goes\nconfig:6: map.rules[1].ipv4: 198.18.80.128/25 overlaps map.rules[0]"},
		"the prefix": {least + "map: {rules: [{ipv6: 2001:db8::/40, ipv4: 198.18.80.0/24, ea_bits: 16}]}", "config:3: map.rules[0].ipv6: 2001:db8::/40 overlaps the prefix, 2001:db8:64::/96\nconfig:3: map.rules[0].ipv6: 2001:db8::/40 covers addresses.ipv6"},
		"own":        {least + "map: {rules: [{ipv6: 2001:db8:4000::/40, ipv4: 192.0.2.0/24, ea_bits: 16}]}", "config:3: map.rules[0].ipv4: 192.0.2.0/24 covers addresses.ipv4"},
		"a pool":     {least + mapRule + "pools: [{name: a, ipv4: 198.18.80.4/30}]", "map.rules[0].ipv4: 198.18.80.0/24 overlaps pools[0] (198.18.80.4/30)"},
		"a relay":    {least + mapRule + "relay: {ipv4: [198.18.0.0/16]}", "map.rules[0].ipv4: 198.18.80.0/24 overlaps relay.ipv4"},
		"sources":    {least + mapRule + "icmp_source_pool: {ipv4: 198.18.80.0/30}", "map.rules[0].ipv4: 198.18.80.0/24 overlaps icmp_source_pool.ipv4"},
		"a mapping4": {least + mapRule + "mappings: [{ipv6: 2001:db8:6::2, ipv4: 198.18.80.7}]", "mappings[0]: 198.18.80.7/32 overlaps map.rules[0]"},
		"a mapping6": {least + mapRule + "mappings: [{ipv6: 2001:db8:4001::2, ipv4: 198.51.100.7}]", "mappings[0]: 2001:db8:4001::2/128 overlaps map.rules[0]"},
		"many": {least + "map:\n  rules:\n" + strings.Repeat("    - {ipv6: 2001:db8:4000::/40, ipv4: 198.18.80.0/24, ea_bits: 16}\n", mapt.Most+1),
			"map.rules: 65 are more than 64"},
	} {
		_, err := Parse([]byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v\nwant %s", name, err, test.want)
		}
	}
	c, err := Parse([]byte(least + mapRule + "relay: {ipv4: [10.0.0.0/24]}"))
	if err != nil {
		t.Fatal(err)
	}
	host := api.Rule{IPv4: netip.MustParsePrefix("10.0.0.1/32"), IPv6: netip.MustParsePrefix("2001:db8:4000:100::/64")}
	if field, err := c.CheckRule(host); field != "ipv6" || err == nil {
		t.Errorf("a host of the fleet among CEs: %q, %v", field, err)
	}
}
