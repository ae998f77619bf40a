package route

import (
	"strings"
	"testing"

	"github.com/natless/natless/tests/netns"
)

// TestPolicyEngine: each is found by what it makes, and kube-proxy is none.
func TestPolicyEngine(t *testing.T) {
	netns.Require(t, netns.Root, "nft", "ip6tables-nft")
	for _, c := range []struct{ rules, want string }{
		{"", ""},
		{"ip6tables-nft KUBE-ROUTER-FORWARD", "kube-router"},
		{"ip6tables-nft cali-FORWARD", "Calico"},
		{"add table ip6 calico; add chain ip6 calico filter-cali-FORWARD", "Calico"},
		{"add table inet kube-network-policies; add chain inet kube-network-policies postrouting { type filter hook postrouting priority 95; }", "kube-network-policies"},
		{"ip6tables-nft CILIUM_FORWARD", "Cilium"},
		{"ip6tables-nft ANTREA-FORWARD", "Antrea"},
		{"ip6tables-nft WEAVE-NPC", "Weave Net"},
		{"add table ip6 kube-proxy; add chain ip6 kube-proxy filter-forward { type filter hook forward priority -110; }", ""},
		{"ip6tables-nft KUBE-FORWARD", ""},
		{"add table inet natless; add chain inet natless forward", ""},
	} {
		t.Run(c.rules, func(t *testing.T) {
			t.Parallel()
			ns := netns.New(t, "engine")
			if chain, ok := strings.CutPrefix(c.rules, "ip6tables-nft "); ok {
				ns.Run("ip6tables-nft", "-N", chain)
				ns.Run("ip6tables-nft", "-A", "FORWARD", "-j", chain)
			} else if c.rules != "" {
				ns.Run("nft", c.rules)
			}
			var got string
			var err error
			ns.Do(func() { got, err = ReadPolicyEngine() })
			if err != nil || got != c.want {
				t.Errorf("%q is found, want %q: %v", got, c.want, err)
			}
		})
	}
}
