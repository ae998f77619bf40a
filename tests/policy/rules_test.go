//go:build linux

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// remotes are where packets go to and come from, besides anywhere.
var remotes = []string{"192.0.2.1", "192.0.2.77", "192.0.2.200", "203.0.113.5", "203.0.113.129", "8.8.8.8", "100.1.2.3"}

// random makes policies. What a rule says of ports is of ports that no other speaks of,
// and what passes on does not look at ports: so what is said of a fragment without ports
// can be put into nftables' words.
type random struct {
	*rand.Rand
	port uint16
}

func (r *random) network() netip.Prefix {
	p, _ := netip.MustParseAddr(remotes[r.IntN(len(remotes))]).Prefix([]int{0, 1, 8, 16, 23, 24, 25, 26, 32}[r.IntN(9)])
	return p
}

func (r *random) protocols() (list []policy.Protocol) {
	for range r.IntN(3) {
		p := policy.Protocol{Number: []uint8{6, 17, 132, 136, 33, 1}[r.IntN(6)]}
		if p.Number != 1 && r.IntN(4) != 0 {
			p.Ports = ports.Range{First: r.port, Last: r.port + uint16(r.IntN(2))*10}
			r.port += 20
		}
		list = append(list, p)
	}
	return list
}

func (r *random) rules() (list []policy.Rule) {
	for range 1 + r.IntN(5) {
		one := policy.Rule{Action: policy.Action(r.IntN(3)), Networks: []netip.Prefix{r.network(), r.network()}}
		if one.Action != policy.Pass {
			one.Protocols = r.protocols()
		}
		list = append(list, one)
	}
	return list
}

func (r *random) policies() (list []policy.Policy) {
	r.port = 1100
	for i := range 4 {
		list = append(list, policy.Policy{Name: fmt.Sprint("p", i), Tier: policy.Tier(r.IntN(3)), Priority: r.IntN(5), Audit: r.IntN(8) == 0,
			Answer: policy.Answer(r.IntN(3)), Egress: r.rules(), Ingress: r.rules()})
	}
	return list
}

// ruleset is the policies as nftables has them, for a workload with an address, and the
// ports that its own connections come from. Rules leave what they say in the mark: 1 is
// accepted, 2 denied, 3 neither for all ports.
func ruleset(all []policy.Policy, workload netip.Addr, client ports.Range) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("table ip judge {")
	for d, name := range map[policy.Direction]string{policy.Egress: "egress", policy.Ingress: "ingress"} {
		for _, way := range []string{"out", "in"} {
			address, port := "saddr", "dport"
			if way == "out" {
				address = "daddr"
			}
			if (way == "out") != (d == policy.Egress) {
				port = "sport" // what answers
			}
			for _, later := range []bool{false, true} {
				chains(say, all, d, chainName(name, way, later), address, port, later)
			}
		}
	}
	say(`chain forward {
		type filter hook forward priority 0; policy drop;
		ip saddr %[1]s goto out
		ip daddr %[1]s goto in
	}
	chain out {
		ip protocol tcp ip frag-off & 0x1fff 1-2 drop
		ip frag-off & 0x1fff != 0 ip protocol { tcp, udp, sctp, udplite, dccp } goto later_out
		icmp type echo-request jump egress_out
		icmp type echo-reply jump ingress_out
		ip protocol icmp meta mark 1 accept
		ip protocol icmp drop
		jump egress_out
		meta mark 1 accept
		ip protocol != { tcp, udp, sctp, udplite, dccp } drop
		th sport %[2]d-%[3]d drop
		ip protocol tcp tcp flags & (syn | ack) == syn drop
		jump ingress_out
		meta mark 1 accept
		drop
	}
	chain in {
		ip protocol tcp ip frag-off & 0x1fff 1-2 drop
		ip frag-off & 0x1fff != 0 ip protocol { tcp, udp, sctp, udplite, dccp } goto later_in
		icmp type echo-request jump ingress_in
		icmp type echo-reply jump egress_in
		ip protocol icmp meta mark 1 accept
		ip protocol icmp drop
		ip protocol != { tcp, udp, sctp, udplite, dccp } goto begins
		ip protocol tcp tcp flags & (syn | ack) == syn goto begins
		th dport %[2]d-%[3]d goto answers
		goto begins
	}
	chain begins { jump ingress_in; meta mark 1 accept; drop; }
	chain answers { jump egress_in; meta mark 1 accept; drop; }
	chain later_out { jump egress_out_later; meta mark 1 accept; jump ingress_out_later; meta mark 1 accept; drop; }
	chain later_in { jump ingress_in_later; meta mark 1 accept; jump egress_in_later; meta mark 1 accept; drop; }
}`, workload, client.First, client.Last)
	return b.String()
}

func chainName(name, way string, later bool) string {
	if later {
		return name + "_" + way + "_later"
	}
	return name + "_" + way
}

// chains are what a direction's rules say, tier by tier. Of a later fragment, a rule that
// looks at ports says what it would, and the next is asked.
func chains(say func(string, ...any), all []policy.Policy, d policy.Direction, name, address, port string, later bool) {
	for tier := range policy.TierNames {
		say("chain %s_%d {", name, tier)
		var some []policy.Policy
		for _, p := range all {
			if int(p.Tier) == tier && !p.Audit {
				some = append(some, p)
			}
		}
		slices.SortStableFunc(some, func(a, b policy.Policy) int { return a.Priority - b.Priority })
		for _, p := range some {
			for _, r := range p.Rules(d) {
				rule(say, r, address, port, later)
			}
		}
		say("}")
	}
	say("chain %s {\nmeta mark set 0", name)
	for tier := range policy.TierNames {
		say("jump %s_%d", name, tier)
		say("meta mark & 4 != 0 meta mark set meta mark & 3 return") // a rule for all ports has decided
	}
	say("meta mark set meta mark | 1\n}") // none matches
}

func rule(say func(string, ...any), r policy.Rule, address, port string, later bool) {
	says := map[policy.Action]int{policy.Accept: 1, policy.Deny: 2}[r.Action]
	for _, n := range r.Networks {
		matches := []string{""}
		partly := []bool{false}
		if r.Protocols != nil {
			matches, partly = nil, nil
		}
		for _, p := range r.Protocols {
			m := fmt.Sprintf("ip protocol %d", p.Number)
			whole := p.Ports == ports.Range{}
			if !whole && !later {
				m += fmt.Sprintf(" th %s %d-%d", port, p.Ports.First, p.Ports.Last)
			}
			matches, partly = append(matches, m), append(partly, !whole)
		}
		for i, m := range matches {
			from := fmt.Sprintf("ip %s %s %s", address, n, m)
			switch {
			case r.Action == policy.Pass:
				say("%s return", from)
			case later && partly[i]:
				say("%s meta mark set meta mark | %d", from, says)
			default:
				say("%s meta mark set meta mark | %d return", from, says|4)
			}
		}
	}
}
