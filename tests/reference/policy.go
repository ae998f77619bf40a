package reference

import (
	"net/netip"
	"slices"

	"github.com/natless/natless/translator/policy"
)

// Policies are policies as they are written, and a workload that some may select. They
// are asked one after the other, from the first to the last.
type Policies struct {
	All      []policy.Policy
	Workload policy.Workload
}

// Opinion is what policies say of something.
type Opinion struct {
	Allow bool
	Rule  string // policy, direction and rule; "": none matches
}

// Of says what the rules of a direction say of a remote, a protocol and a port; also is
// whether those of audited policies count.
func (p Policies) Of(d policy.Direction, remote netip.Addr, proto uint8, port uint16, also bool) Opinion {
	for tier := policy.Admin; tier <= policy.Baseline; tier++ {
		for _, i := range p.inTier(tier) {
			one := &p.All[i]
			if one.Audit && !also || !one.Subject.Selects(p.Workload) {
				continue
			}
			o, decided, pass := ask(one, d, remote, proto, port)
			if decided {
				return o
			}
			if pass {
				break
			}
		}
	}
	return Opinion{Allow: true}
}

// inTier are the policies of a tier, those with the least priority first, and of those
// the first.
func (p Policies) inTier(tier policy.Tier) (list []int) {
	for i := range p.All {
		if p.All[i].Tier == tier {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int { return p.All[a].Priority - p.All[b].Priority })
	return list
}

// ask asks the rules of one policy.
func ask(p *policy.Policy, d policy.Direction, remote netip.Addr, proto uint8, port uint16) (o Opinion, decided, pass bool) {
	for i, r := range p.Rules(d) {
		if !slices.ContainsFunc(r.Networks, func(n netip.Prefix) bool { return n.Contains(remote) }) {
			continue
		}
		if len(r.Protocols) > 0 && !slices.ContainsFunc(r.Protocols, func(o policy.Protocol) bool {
			return o.Number == proto && (o.Ports.First == 0 && o.Ports.Last == 0 || o.Ports.First <= port && port <= o.Ports.Last)
		}) {
			continue
		}
		if r.Action == policy.Pass {
			return o, false, true
		}
		id := (&policy.Rules{Policy: p, Direction: d, Rule: r, Index: i}).ID()
		return Opinion{r.Action == policy.Accept, id}, true, false
	}
	return o, false, false
}

// fate is what becomes of a packet.
type fate uint8

const (
	passes fate = iota
	denied
	unsaid // denied for what a fragment does not say
)

// Fates are what becomes of a packet, and what would if what is audited were in force.
func (p Policies) Fates(q *policy.Packet) (now, would Fate) {
	return p.fate(q, false), p.fate(q, true)
}

// Fate is one of these.
type Fate struct {
	Passes, Fragment bool
}

func (p Policies) fate(q *policy.Packet, also bool) Fate {
	f := p.judge(q, also)
	return Fate{f == passes, f == unsaid}
}

func (p Policies) judge(q *policy.Packet, also bool) fate {
	remote := netip.AddrFrom4([4]byte{byte(q.Remote >> 24), byte(q.Remote >> 16), byte(q.Remote >> 8), byte(q.Remote)})
	says := func(d policy.Direction, port uint16) bool { return p.Of(d, remote, q.Proto, port, also).Allow }
	verdict := func(ok bool) fate {
		if ok {
			return passes
		}
		return denied
	}
	out := policy.Ingress // whose rules are about what goes this way and begins something
	if q.Out {
		out = policy.Egress
	}
	syn := q.Asks && q.Proto == tcp
	switch q.Proto {
	default:
		return verdict(says(out, 0))
	case icmp4:
		if q.Asks {
			return verdict(says(out, 0))
		}
		return verdict(says(1-out, 0))
	case tcp, udp, udpLite, sctp, dccp:
	}
	switch {
	case q.Overwrites:
		return unsaid
	case q.Later:
		return p.later(q.Proto, remote, also)
	case q.Out && says(policy.Egress, q.Far):
		return passes
	case q.Out:
		return verdict(!q.Client && !syn && says(policy.Ingress, q.Local))
	case q.Client && !syn:
		return verdict(says(policy.Egress, q.Far))
	}
	return verdict(says(policy.Ingress, q.Local))
}

// later is what has no ports: what is said of each port decides.
func (p Policies) later(proto uint8, remote netip.Addr, also bool) fate {
	ports := []uint16{0}
	for _, one := range p.All {
		for _, r := range slices.Concat(one.Egress, one.Ingress) {
			for _, o := range r.Protocols {
				ports = append(ports, o.Ports.First, o.Ports.Last, o.Ports.First-1, o.Ports.Last+1)
			}
		}
	}
	all, none := [2]bool{true, true}, [2]bool{true, true}
	for d := range all {
		for _, port := range ports {
			ok := p.Of(policy.Direction(d), remote, proto, port, also).Allow
			all[d], none[d] = all[d] && ok, none[d] && !ok
		}
	}
	switch {
	case all[0] || all[1]:
		return passes
	case none[0] && none[1]:
		return denied
	}
	return unsaid
}
