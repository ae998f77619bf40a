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
