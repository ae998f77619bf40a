package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const usePool = "pools:\n  - name: a\n    ipv4: 198.51.100.0/28\n    whole_address: true\n    first_use: "

// TestFirstUse: sources are the translator's, with defaults for what is left out.
func TestFirstUse(t *testing.T) {
	c, err := Parse([]byte(least + usePool + "{sources: [\"2001:db8:7::/64\", \"2001:db8:8::9\"]}"))
	if err != nil {
		t.Fatal(err)
	}
	sources := []netip.Prefix{netip.MustParsePrefix("2001:db8:7::/64"), netip.MustParsePrefix("2001:db8:8::9/128")}
	compare(t, FirstUse{Sources: sources, Idle: 24 * time.Hour, MostPerPrefix: 64, Rate: 10}, c.Pools[0].FirstUse)
	compare(t, sources, c.Translator([16]byte{}).FirstUse)
	if c, err = Parse([]byte(least + strings.TrimSuffix(usePool, "    first_use: "))); err != nil || c.Pools[0].FirstUse.Enabled() {
		t.Errorf("without the key: %v, %v", c.Pools[0].FirstUse, err)
	}
}

func TestFirstUseRefused(t *testing.T) {
	for text, want := range map[string]string{
		usePool + "{sources: [\"198.51.100.0/24\"]}":                                 "config:7: pools[0].first_use.sources[0]: 198.51.100.0/24 is not an IPv6 prefix",
		usePool + "{sources: [\"::/0\"]}":                                            "pools[0].first_use.sources[0]: ::/0 is not an IPv6 prefix that hosts may have",
		usePool + "{sources: [\"2001:db8:64::/48\"]}":                                "pools[0].first_use.sources[0]: 2001:db8:64::/48 overlaps the prefix, 2001:db8:64::/96",
		usePool + "{sources: [\"2001:db8::/64\"]}":                                   "pools[0].first_use.sources[0]: 2001:db8::/64 covers addresses.ipv6",
		usePool + "{sources: [\"2001:db8:7::/64\", \"2001:db8:7::1\"]}":              "pools[0].first_use.sources[1]: 2001:db8:7::1/128 overlaps pools[0].first_use.sources[0] (2001:db8:7::/64)",
		usePool + "{sources: [\"2001:db8:7::/64\"], idle: 1ms}":                      "pools[0].first_use.idle: 1ms is less than 1s",
		usePool + "{sources: [\"2001:db8:7::/64\"], rate: 0}":                        "pools[0].first_use.rate: 0 is not between 1 and 1000",
		usePool + "{sources: [\"2001:db8:7::/64\"], most: -1}":                       "pools[0].first_use.most: -1 is not between 0",
		usePool + "{sources: [\"2001:db8:7::/64\"], most_per_prefix: 0}":             "pools[0].first_use.most_per_prefix: 0 is not between 1",
		usePool + "{sources: [\"2001:db8:7::/64\"]}\nmetrics: {per_workload: false}": "pools[0].first_use: needs metrics.per_workload",
		mapRule + usePool + "{sources: [\"2001:db8:4001::/64\"]}":                    "pools[0].first_use.sources[0]: 2001:db8:4001::/64 overlaps map.rules[0]",
		usePool + "{sources: [\"2001:db8:7::/64\"]}\n  - {name: b, ipv4: 198.51.100.16/28, first_use: {sources: [\"2001:db8:7:0:1::/80\"]}}": "pools[1].first_use.sources[0]: 2001:db8:7:0:1::/80 overlaps pools[0].first_use.sources[0]",
	} {
		if _, err := Parse([]byte(least + text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", text, err, want)
		}
	}
}
