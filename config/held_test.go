package config

import (
	"net/netip"
	"strings"
	"testing"
)

// TestUnusable: what a link makes impossible is refused, what it makes smaller is
// not.
func TestUnusable(t *testing.T) {
	held := map[netip.Addr]string{
		netip.MustParseAddr("192.0.2.0"): "the network address of 192.0.2.0/24 on eth0", netip.MustParseAddr("192.0.2.1"): "the host's own on eth0",
		netip.MustParseAddr("192.0.2.2"): "a gateway on eth0", netip.MustParseAddr("2001:db8::5"): "the host's own on eth0",
	}
	const free = "addresses: {ipv4: 198.51.100.1, ipv6: 2001:db8::1}\nprefix: 2001:db8:64::/96\n"
	for name, c := range map[string]struct{ text, want, covered string }{
		"nothing":        {free, "", "[]"},
		"own":            {"addresses: {ipv4: 192.0.2.1, ipv6: 2001:db8::5}\nprefix: 2001:db8:64::/96\n", "addresses.ipv4: 192.0.2.1 is the host's own on eth0: the translator needs an address that nobody else has\naddresses.ipv6: 2001:db8::5 is", "[]"},
		"source":         {free + "icmp_source_pool: {ipv4: 192.0.2.2}\n", "icmp_source_pool.ipv4: 192.0.2.2 is a gateway", "[]"},
		"sources":        {free + "icmp_source_pool: {ipv4: 192.0.2.0/30}\n", "", "[]"},
		"pool around":    {free + "pools: [{name: a, ipv4: 192.0.2.0/28}]\n", "", "[192.0.2.0 192.0.2.1 192.0.2.2]"},
		"pool of two":    {free + "pools: [{name: a, ipv4: 192.0.2.0/31}]\n", "pools[0].ipv4: 192.0.2.0/31: nothing is left to assign: 192.0.2.0 is the network address of 192.0.2.0/24 on eth0; to share", "[192.0.2.0 192.0.2.1]"},
		"pool of itself": {free + "pools: [{name: a, ipv4: 192.0.2.1}]\n", "say ipv4: uplink", "[192.0.2.1]"},
		"uplink":         {free + "uplink: eth0\npools: [{name: a, ipv4: uplink, ports: 32768-65535}]\n", "", "[]"},
		"mapping":        {free + "mappings: [{ipv6: 2001:db8:7::1, ipv4: 192.0.2.2}]\n", "mappings: 2001:db8:7::1/128 ↔ 192.0.2.2/32: 192.0.2.2 is a gateway on eth0", "[192.0.2.2]"},
		"with ports":     {free + "mappings: [{ipv6: 2001:db8:7::1, ipv4: 192.0.2.1, ports: 1024-2047}]\n", "192.0.2.1 is the host's own", "[192.0.2.1]"},
		"mapping around": {free + "mappings: [{ipv6: 2001:db8:7::/120, ipv4: 192.0.2.0/24}]\n", "", "[192.0.2.0 192.0.2.1 192.0.2.2]"},
		"mapping beside": {free + "mappings: [{ipv6: 2001:db8:7::1, ipv4: 192.0.2.3}]\n", "", "[]"},
	} {
		parsed, err := Parse([]byte(c.text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text := ""
		if err := parsed.Unusable(held); err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, c.want) || c.want == "" && text != "" {
			t.Errorf("%s: %q, want %q", name, text, c.want)
		}
		covered := ""
		for _, a := range parsed.Covered(held) {
			covered += " " + a.String()
		}
		if "["+strings.TrimSpace(covered)+"]" != c.covered {
			t.Errorf("%s: covers %q, want %s", name, covered, c.covered)
		}
	}
}
