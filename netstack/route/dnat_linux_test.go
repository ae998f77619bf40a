package route

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
	"github.com/natless/natless/translator/ports"
)

// TestDestinationNAT finds published ports, as nft and iptables-nft write them, and
// judges which take ports that workloads share.
func TestDestinationNAT(t *testing.T) {
	netns.Require(t, netns.Root, "nft", "iptables-nft")
	h := HostPool{Addr: netip.MustParseAddr("192.0.2.10"), Ports: ports.MustParse("12288-28671")}
	mapped := []netip.Prefix{netip.MustParsePrefix("198.51.100.8/30")}
	ns := netns.New(t, "nat")
	ns.Run("nft", "add table ip x; add chain ip x pre { type nat hook prerouting priority -100; }")
	for _, c := range []struct {
		rule, words string // words: nothing when it publishes no port of IPv4
		takes       bool
	}{
		{"tcp dport 20000 dnat to 172.17.0.2:80", "chain ip x pre publishes port 20000", true},
		{"fib daddr type local udp dport 20000 dnat to 172.17.0.2", "chain ip x pre publishes port 20000", true},
		{"tcp dport 28000-29000 dnat to 172.17.0.2", "chain ip x pre publishes ports 28000-29000", true},
		{"tcp dport 8080 dnat to 172.17.0.2:80", "chain ip x pre publishes port 8080", false},
		{"tcp dport 20000 redirect to :80", "chain ip x pre publishes port 20000", true},
		{"ip daddr 192.0.2.10 tcp dport 20000 dnat to 172.17.0.2:80", "chain ip x pre for 192.0.2.10 publishes port 20000", true},
		{"ip daddr 192.0.2.11 tcp dport 20000 dnat to 172.17.0.2:80", "chain ip x pre for 192.0.2.11 publishes port 20000", false},
		{"ip daddr 198.51.100.9 tcp dport 80 dnat to 172.17.0.2:80", "chain ip x pre for 198.51.100.9 publishes port 80", true},
		{"tcp sport 20000 dnat to 172.17.0.2:80", "", false},
		{"tcp dport 20000 counter accept", "", false},
		{"dnat to 172.17.0.2", "", false},
		{"iptables-nft -p tcp --dport 20000 -j DNAT --to-destination 172.17.0.2:80", "chain ip nat PREROUTING publishes port 20000", true},
		{"iptables-nft ! -i docker0 -d 192.0.2.11 -p udp --dport 20000 -j DNAT --to-destination 172.17.0.2", "chain ip nat PREROUTING for 192.0.2.11 publishes port 20000", false},
		{"iptables-nft -p tcp --dport 80 -j REDIRECT --to-ports 8080", "chain ip nat PREROUTING publishes port 80", false},
		{"iptables-nft -p tcp -j DNAT --to-destination 172.17.0.2", "", false},
	} {
		if words, ok := strings.CutPrefix(c.rule, "iptables-nft "); ok {
			ns.Run("iptables-nft", append([]string{"-t", "nat", "-A", "PREROUTING"}, strings.Fields(words)...)...)
		} else {
			ns.Run("nft", "add rule ip x pre "+c.rule)
		}
		var found []DestinationNAT
		var err error
		ns.Do(func() { found, err = ReadDestinationNAT() })
		ns.Run("sh", "-c", "nft flush chain ip x pre; iptables-nft -t nat -F PREROUTING")
		switch {
		case err != nil:
			t.Fatal(err)
		case c.words == "" && len(found) > 0:
			t.Errorf("%s: found %v", c.rule, found)
		case c.words == "":
		case len(found) != 1 || found[0].String() != c.words:
			t.Errorf("%s: found %v, want %s", c.rule, found, c.words)
		case found[0].Takes(h, mapped) != c.takes:
			t.Errorf("%s: takes ports: %t, want %t", c.rule, !c.takes, c.takes)
		}
	}
}

// TestNodePorts: those of kube-proxy, as either of its modes writes them.
func TestNodePorts(t *testing.T) {
	netns.Require(t, netns.Root, "nft", "iptables-nft")
	for mode, c := range map[string]struct{ rules, want string }{
		"nftables": {`nft 'add table ip kube-proxy; add chain ip kube-proxy external-A-default/web/tcp/80; add chain ip kube-proxy services { type nat hook prerouting priority -100; }
			add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict; }
			add element ip kube-proxy service-nodeports { tcp . 30080 : goto external-A-default/web/tcp/80 }
			add rule ip kube-proxy services meta l4proto . th dport vmap @service-nodeports'`,
			"chain ip kube-proxy external-A-default/web/tcp/80 publishes port 30080"},
		"iptables": {"iptables-nft -t nat -N KUBE-EXT-A; iptables-nft -t nat -N KUBE-NODEPORTS; iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS; " +
			"iptables-nft -t nat -A KUBE-NODEPORTS -d 127.0.0.0/8 -j RETURN; iptables-nft -t nat -A KUBE-NODEPORTS -p tcp --dport 30080 -j KUBE-EXT-A", "chain ip nat KUBE-NODEPORTS publishes port 30080"},
		"none": {"nft 'add table ip kube-proxy'", ""},
	} {
		ns := netns.New(t, "nat")
		ns.Run("sh", "-c", c.rules)
		var found []DestinationNAT
		var err error
		ns.Do(func() { found, err = ReadDestinationNAT() })
		var words []string
		for _, n := range found {
			words = append(words, n.String())
		}
		if got := strings.Join(words, "; "); err != nil || got != c.want {
			t.Errorf("%s: %q, want %q: %v", mode, got, c.want, err)
		}
		at := len(found) == 1 && found[0].At(netip.MustParseAddr("192.0.2.10"), []uint16{80, 30080}) && !found[0].At(netip.MustParseAddr("192.0.2.10"), []uint16{30081})
		if at != (c.want != "") {
			t.Errorf("%s: at its port: %t", mode, at)
		}
	}
}
