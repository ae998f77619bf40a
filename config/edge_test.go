package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

const edgeBase = `
prefix: 64:ff9b::/96
addresses: {ipv4: 192.0.0.8, ipv6: "2001:db8::1"}
`

const edgeHost = edgeBase + `
pools: [{name: a, ipv4: 198.51.100.0/30}, {name: b, from: fleet}]
edge: {enabled: true, prefix: "2001:db8:f64::/96", host: "2001:db8:e::/96", blocks: [{ipv4: 198.51.100.9, ipv6: "2001:db8:e:1::9"}], mtu: 1280}
`

func TestEdge(t *testing.T) {
	c, err := Parse([]byte(edgeHost))
	if err != nil {
		t.Fatal(err)
	}
	tc := c.Translator([16]byte{})
	if tc.MTU4 != 1260 {
		t.Errorf("MTU %d, want 1260", tc.MTU4)
	}
	lent := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30"), netip.MustParsePrefix("203.0.113.4/31"), netip.MustParsePrefix("198.51.100.9/32"),
		netip.MustParsePrefix("198.51.100.1/32")}
	want := []string{"198.51.100.9/32 2001:db8:e:1::9/128", "198.51.100.0/30 2001:db8:e::c633:6400/126", "203.0.113.4/31 2001:db8:e::cb00:7104/127"}
	tc.Edge.Blocks = c.EdgeBlocks(lent)
	for i, b := range tc.Edge.Blocks {
		if got := b.IPv4.String() + " " + b.IPv6.String(); i >= len(want) || got != want[i] {
			t.Errorf("block %d: %s, want %v", i, got, want)
		}
	}
	table, err := mapping.New(c.Prefix, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := translator.New(tc, table); err != nil {
		t.Error(err)
	}
}

func TestEdgeRefused(t *testing.T) {
	edge := func(s string) string { return "edge: {enabled: true, " + s + "}\n" }
	const host = `prefix: "2001:db8:f64::/96", host: "2001:db8:e::/96"`
	for text, want := range map[string]string{
		edgeBase + edge(`host: "2001:db8:e::/96"`):                                                                     "edge.prefix: missing",
		edgeBase + edge(`prefix: "2001:db8:f64::/96"`):                                                                 "edge.host: missing",
		edgeBase + edge(`prefix: "64:ff9b::/96", host: "2001:db8:e::/96"`):                                             "overlaps the workloads' prefix",
		edgeBase + edge(`prefix: "2001:db8:f64::/95", host: "2001:db8:e::/96"`):                                        "edge.prefix",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", host: "2001:db8:e::/64"`):                                        "must be a /96",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", host: "2001:db8::/96"`):                                          "covers addresses.ipv6",
		edgeBase + edge(`prefix: "2001:db8::/32", host: "2001:db9::/96"`):                                              "lies in edge.prefix",
		edgeBase + edge(host+", mtu: 1279"):                                                                            "edge.mtu",
		edgeBase + "mtu: {ipv4: 1400}\n" + edge(host):                                                                  "edge.mtu is what counts",
		edgeBase + "uplink: eth0\nxdp: [eth0]\n" + edge(host):                                                          "is for relays",
		edgeBase + "map: {rules: [{ipv6: \"2001:db8:c000::/40\", ipv4: 198.51.100.0/24, ea_bits: 16}]}\n" + edge(host): "a border relay has IPv4",
		edgeBase + "uplinks: [eth1]\n" + edge(host):                                                                    "name the interfaces in fabric",
		edgeBase + "relay: {ipv4: [198.51.100.0/24]}\n" + edge(host):                                                   "an edge has not",
		edgeBase + "inside: {device: natless4}\n" + edge(host):                                                         "cannot have IPv4 inside yet",
		edgeBase + "icmp_source_pool: {ipv4: 203.0.113.8/32}\n" + edge(host):                                           "relays choose",
		edgeBase + "uplink: eth0\npools: [{name: a, ipv4: uplink, ports: 1024-9999}]\n" + edge(host):                   "no address to share",
		edgeBase + "pools: [{name: a, ipv4: 198.51.100.0/30}]\n" + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0/31, ipv6: "2001:db8:e::/127"}]`):         "in none of edge.blocks",
		edgeBase + "pools: [{name: a, from: fleet}]\n" + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0/31, ipv6: "2001:db8:e::/127"}]`):                   "edge.host is missing",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0/31, ipv6: "2001:db8:e::/128"}]`):                                                         "an address for each",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0, ipv6: "2001:db8:e::"}, {ipv4: 198.51.100.1, ipv6: "2001:db8:e::"}]`):                    "overlaps that of",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0, ipv6: "2001:db8:f64::1"}]`):                                                             "overlaps edge.prefix",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0}]`):                                                                                      "by which address",
		edgeBase + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 127.0.0.1, ipv6: "2001:db8:e::1"}]`):                                                                  "hosts may have",
		edgeBase + "mappings: [{ipv6: \"2001:db8:9::1\", ipv4: 203.0.113.9}]\n" + edge(`prefix: "2001:db8:f64::/96", blocks: [{ipv4: 198.51.100.0, ipv6: "2001:db8:e::"}]`): "which mappings have",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nerror %v, want %q", text, err, want)
		}
	}
}

// TestEdgeRestart: whether there is an edge is settled at the start, all else of it is not.
func TestEdgeRestart(t *testing.T) {
	parse := func(text string) *Config {
		t.Helper()
		c, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	on := parse(edgeHost)
	if keys := NeedsRestart(on, parse(strings.Replace(edgeHost, "1280", "1400", 1))); keys != nil {
		t.Errorf("for another MTU: %v", keys)
	}
	if keys := NeedsRestart(on, parse(strings.Replace(edgeHost, "enabled: true", "enabled: false", 1))); len(keys) != 1 || keys[0] != "edge.enabled" {
		t.Errorf("without: %v", keys)
	}
}
