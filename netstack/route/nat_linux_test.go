package route

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// TestSourceNAT finds rules of nft and iptables-nft, as their programs make
// them, and judges which may take ports that workloads share.
func TestSourceNAT(t *testing.T) {
	netns.Require(t, netns.Root, "nft", "iptables-nft")
	const chain = "add table ip x; add chain ip x post { type nat hook postrouting priority 100; }; add rule ip x post "
	h := HostPool{Addr: netip.MustParseAddr("192.0.2.10"), Ports: ports.MustParse("12288-28671")}
	mapped := []netip.Prefix{netip.MustParsePrefix("198.51.100.8/30")}
	for _, c := range []struct {
		rule, words string // words: nothing when it is not a source NAT of IPv4
		takes       bool
	}{
		{"masquerade", "chain ip x post", true},
		{"masquerade random,fully-random", "chain ip x post", true},
		{"ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade", "chain ip x post not to docker0", true},
		{"oifname \"eth0\" masquerade", "chain ip x post to eth0", true},
		{"oif eth0 masquerade", "chain ip x post to eth0", true},
		{"oifname \"eth*\" masquerade", "chain ip x post", true},
		{"oifname \"eth1\" masquerade", "chain ip x post to eth1", false},
		{"oifname != \"eth0\" masquerade", "chain ip x post not to eth0", false},
		{"meta l4proto { tcp, udp } masquerade to :1024-12287", "chain ip x post with ports 1024-12287", false},
		{"meta l4proto { tcp, udp } masquerade to :1024-12288", "chain ip x post with ports 1024-12288", true},
		{"tcp dport 80 masquerade to :20000", "chain ip x post with ports 20000", true},
		{"snat to 192.0.2.10", "chain ip x post", true},
		{"snat to 192.0.2.11", "chain ip x post", false},
		{"snat to 198.51.100.9", "chain ip x post", true},
		{"tcp dport 80 snat to 192.0.2.10:30000-40000", "chain ip x post with ports 30000-40000", false},
		{"counter accept", "", false},
		{"iptables-nft -j MASQUERADE", "chain ip nat POSTROUTING", true},
		{"iptables-nft -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "chain ip nat POSTROUTING not to docker0", true},
		{"iptables-nft -o eth1 -j MASQUERADE", "chain ip nat POSTROUTING to eth1", false},
		{"iptables-nft -p tcp -j MASQUERADE --to-ports 1024-12287", "chain ip nat POSTROUTING with ports 1024-12287", false},
		{"iptables-nft -p udp -j MASQUERADE --to-ports 12000-13000", "chain ip nat POSTROUTING with ports 12000-13000", true},
		{"iptables-nft -j MASQUERADE --random-fully", "chain ip nat POSTROUTING", true},
		{"iptables-nft -j SNAT --to-source 192.0.2.10", "chain ip nat POSTROUTING", true},
		{"iptables-nft -p tcp -j SNAT --to-source 192.0.2.10:30000-40000", "chain ip nat POSTROUTING with ports 30000-40000", false},
		{"iptables-nft -j SNAT --to-source 192.0.2.11", "chain ip nat POSTROUTING", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			ns, peer := netns.New(t, "nat"), netns.New(t, "peer")
			netns.Veth(t, ns, "eth0", peer, "eth0")
			if words, ok := strings.CutPrefix(c.rule, "iptables-nft "); ok {
				ns.Run("iptables-nft", append([]string{"-t", "nat", "-A", "POSTROUTING"}, strings.Fields(words)...)...)
			} else {
				ns.Run("nft", chain+c.rule)
			}
			var found []SourceNAT
			var err error
			ns.Do(func() { found, _, err = ReadSourceNAT() })
			if err != nil {
				t.Fatal(err)
			}
			if c.words == "" {
				if len(found) > 0 {
					t.Errorf("found %v", found)
				}
				return
			}
			if len(found) != 1 || found[0].String() != c.words {
				t.Fatalf("found %+v, want %s", found, c.words)
			}
			if got := found[0].Takes(h, "eth0", mapped); got != c.takes {
				t.Errorf("%+v takes ports: %t, want %t", found[0], got, c.takes)
			}
		})
	}
	if got := (SourceNAT{Program: "nft"}).Remedy(h); !strings.Contains(got, "masquerade to :28672-65535") {
		t.Error(got)
	}
}
