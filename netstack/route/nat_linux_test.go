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

// TestIdleSourceNAT: what kube-proxy and portmap always have takes nothing, until kube-proxy
// marks what comes to a service of IPv4.
func TestIdleSourceNAT(t *testing.T) {
	netns.Require(t, netns.Root, "nft", "iptables-nft")
	h := HostPool{Addr: netip.MustParseAddr("192.0.2.10"), Ports: ports.MustParse("12288-28671")}
	for name, c := range map[string]struct {
		rules, service string
		engine         string
	}{
		"nftables": {`nft 'add table ip kube-proxy; add chain ip kube-proxy mark-for-masquerade; add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
			add chain ip kube-proxy masquerading; add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
			add rule ip kube-proxy masquerading mark set mark xor 0x4000; add rule ip kube-proxy masquerading masquerade fully-random
			add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100; }; add rule ip kube-proxy nat-postrouting jump masquerading'`,
			`nft 'add chain ip kube-proxy service-A; add rule ip kube-proxy service-A ip daddr 10.0.0.1 jump mark-for-masquerade'`, "kube-proxy"},
		"nftables without a chain that marks": {`nft 'add table ip kube-proxy; add chain ip kube-proxy masquerading
			add rule ip kube-proxy masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
			add rule ip kube-proxy masquerading ct status dnat tcp dport 80 masquerade fully-random
			add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100; }; add rule ip kube-proxy nat-postrouting jump masquerading'`,
			`nft 'add chain ip kube-proxy service-A; add rule ip kube-proxy service-A ip daddr 10.0.0.1 mark set mark or 0x4000'`, "kube-proxy"},
		"iptables": {`for c in KUBE-POSTROUTING KUBE-MARK-MASQ; do iptables-nft -t nat -N $c; done; iptables-nft -t nat -A POSTROUTING -j KUBE-POSTROUTING
			iptables-nft -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000; iptables-nft -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
			iptables-nft -t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully`,
			"iptables-nft -t nat -N KUBE-SVC-A; iptables-nft -t nat -A KUBE-SVC-A -d 10.0.0.1 -j KUBE-MARK-MASQ", "kube-proxy"},
		"portmap": {`for c in CNI-HOSTPORT-SETMARK CNI-HOSTPORT-MASQ CNI-DN-A; do iptables-nft -t nat -N $c; done; iptables-nft -t nat -A POSTROUTING -j CNI-HOSTPORT-MASQ
			iptables-nft -t nat -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE; iptables-nft -t nat -A CNI-DN-A -s 10.0.0.0/24 -j CNI-HOSTPORT-SETMARK`, "", "portmap"},
		"another's": {`nft 'add table ip x; add chain ip x masquerading { type nat hook postrouting priority 100; }; add rule ip x masquerading masquerade'`, "true", ""},
	} {
		ns := netns.New(t, "nat")
		read := func(rules string) SourceNAT {
			t.Helper()
			ns.Run("sh", "-ec", rules)
			var found []SourceNAT
			var err error
			ns.Do(func() { found, _, err = ReadSourceNAT() })
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: %v %v", name, found, err)
			}
			return found[0]
		}
		n := read(c.rules)
		if n.Engine != c.engine || n.Takes(h, "eth0", nil) != (c.engine == "") || !n.Could(h, "eth0", nil) {
			t.Errorf("%s: %+v, takes %t", name, n, n.Takes(h, "eth0", nil))
		}
		if c.service == "" {
			continue
		}
		if n = read(c.service); n.Engine != c.engine || !n.Takes(h, "eth0", nil) {
			t.Errorf("%s with a service: %+v takes %t", name, n, n.Takes(h, "eth0", nil))
		}
		if remedy := n.Remedy(h); strings.Contains(remedy, "ipFamilies") != (c.engine == "kube-proxy") {
			t.Errorf("%s: %s", name, remedy)
		}
	}
}
