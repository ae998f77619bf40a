package generate

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/policy"
	"github.com/natless/natless/translator/ports"
)

// PolicyWorlds are those where workloads are held to policies: by the prefix, inside,
// and where they share the host's address or the translator's own.
func PolicyWorlds() []World {
	plain := world("policy", "64:ff9b::/96", translator.Config{AllowNonGlobal: true})
	inside := world("policy-inside", "2001:db8:122::/48", translator.Config{Host4: netip.MustParseAddr("198.51.100.7")})
	inside.takeInside()
	own := world("policy-own", "2001:db8:100::/40", translator.Config{UDPZeroChecksum: translator.CalculateZeroChecksum})
	own.Config.IPv4 = netip.MustParseAddr("198.51.100.7")
	worlds := []World{plain, inside, own}
	for i := range worlds {
		worlds[i].Hold(somePolicies())
	}
	return worlds
}

// Hold holds the workloads of a world to policies; that of mapping n is called wN/N.
func (w *World) Hold(all []policy.Policy) {
	table, err := policy.Compile(all, policy.NewLedger())
	w.Policies, w.Subjects = all, map[netip.Prefix]policy.Workload{}
	for i := range w.Mappings {
		m := &w.Mappings[i]
		who := policy.Workload{Name: fmt.Sprintf("w%d/%d", i%3, i), Labels: map[string]string{"parity": fmt.Sprint(i % 2)}}
		if err == nil {
			m.Policy, err = table.Number(who)
		}
		if err == nil {
			table, err = table.With(m.Policy)
		}
		w.Subjects[m.IPv6] = who
	}
	if err != nil {
		panic(err)
	}
	w.Config.Policy = table
}

// somePolicies are about the addresses and ports that packets here have.
func somePolicies() []policy.Policy {
	nets := func(list ...string) (all []netip.Prefix) {
		for _, s := range list {
			all = append(all, netip.MustParsePrefix(s))
		}
		return all
	}
	upTo := func(proto uint8, first, last uint16) policy.Protocol {
		return policy.Protocol{Number: proto, Ports: ports.Range{First: first, Last: last}}
	}
	all, remotes := nets("0.0.0.0/0"), nets("192.0.2.0/25", "198.51.100.0/28")
	return []policy.Policy{
		{Name: "odd", Priority: 5, Subject: policy.Subject{Labels: map[string]string{"parity": "1"}}, Answer: policy.Reset,
			Egress: []policy.Rule{
				{Action: policy.Pass, Networks: nets("5.1.0.0/16")},
				{Name: "half", Action: policy.Accept, Networks: remotes, Protocols: []policy.Protocol{upTo(6, 1, 30000), upTo(17, 0, 0), upTo(1, 0, 0)}},
				{Action: policy.Deny, Networks: nets("192.0.2.0/24")},
			},
			Ingress: []policy.Rule{
				{Action: policy.Accept, Networks: remotes, Protocols: []policy.Protocol{upTo(6, 1, 2000), upTo(17, 1000, 3000), upTo(132, 0, 0)}},
				{Action: policy.Deny, Networks: all, Protocols: []policy.Protocol{upTo(6, 0, 0), upTo(33, 7, 9)}},
			}},
		{Name: "third", Priority: 7, Subject: policy.Subject{Namespace: "w0"}, Audit: true,
			Egress: []policy.Rule{{Action: policy.Deny, Networks: all}}, Ingress: []policy.Rule{{Action: policy.Deny, Networks: remotes}}},
		{Name: "fifth", Tier: policy.NetworkPolicy, Subject: policy.Subject{Name: "*/[5-9]"}, Egress: []policy.Rule{{Action: policy.Deny, Networks: all}}},
		{Name: "one", Tier: policy.NetworkPolicy, Subject: policy.Subject{Name: "w1/*"}, Answer: policy.Silence,
			Egress:  []policy.Rule{{Action: policy.Accept, Networks: nets("192.0.2.128/25")}, {Action: policy.Deny, Networks: nets("0.0.0.0/1")}},
			Ingress: []policy.Rule{{Action: policy.Pass, Networks: nets("203.0.113.0/24")}, {Action: policy.Deny, Networks: nets("192.0.2.64/26"), Protocols: []policy.Protocol{upTo(17, 0, 0)}}}},
		{Name: "base", Tier: policy.Baseline, Subject: policy.Subject{Name: "w?/?"},
			Egress:  []policy.Rule{{Action: policy.Deny, Networks: nets("192.0.2.32/27"), Protocols: []policy.Protocol{upTo(6, 1024, 65535)}}},
			Ingress: []policy.Rule{{Action: policy.Deny, Networks: nets("192.0.2.16/28", "203.0.113.0/25")}}},
	}
}
