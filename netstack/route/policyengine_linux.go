package route

import (
	"fmt"
	"strings"

	"github.com/natless/natless/netstack/internal/nftsocket"
)

// policyEngines are programs that enforce the NetworkPolicies of Kubernetes by rules of
// netfilter, by how the chain or the table begins that each makes for what is forwarded.
// They know a pod by the addresses that Kubernetes knows.
var policyEngines = []struct{ chain, table, name string }{
	{chain: "KUBE-ROUTER-FORWARD", name: "kube-router"},
	{chain: "cali-FORWARD", name: "Calico"},
	{table: "calico", name: "Calico"},
	{table: "kube-network-policies", name: "kube-network-policies"},
	{chain: "CILIUM_FORWARD", name: "Cilium"},
	{chain: "ANTREA-FORWARD", name: "Antrea"},
	{chain: "WEAVE-NPC", name: "Weave Net"},
}

// ReadPolicyEngine finds which of them is at work in this thread's network namespace; ""
// is none that is known. What the older iptables has cannot be read.
func ReadPolicyEngine() (string, error) {
	c, err := nftsocket.Open()
	if err != nil {
		return "", err
	}
	defer c.Close()
	var name string
	err = c.Unchanged(func() error {
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nftables chains: %w", err)
		}
		name = ""
		for _, chain := range chains {
			for _, e := range policyEngines {
				if e.chain != "" && strings.HasPrefix(chain.Name, e.chain) || e.table != "" && strings.HasPrefix(chain.Table.Name, e.table) {
					name = e.name
				}
			}
		}
		return nil
	})
	return name, err
}
