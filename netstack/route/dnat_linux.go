package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/translator/ports"
)

// A port of the host that somebody else publishes (Docker, Podman, the CNI plugin
// portmap, a script) has no socket that would keep it from workloads. Where it
// belongs to one, packets to it come to the container or to the workload, as the
// way of the packet goes. So such rules are found, and said.

// DestinationNAT is a rule that gives packets to a port another destination.
type DestinationNAT struct {
	Chain string     // "ip nat DOCKER"
	To    netip.Addr // to which packets were; invalid: any, or the host's own
	Ports ports.Range
}

// Takes reports whether the rule takes ports of a pool on the uplink's own address,
// or of addresses of workloads.
func (n DestinationNAT) Takes(h HostPool, mapped []netip.Prefix) bool {
	if n.To.IsValid() && slices.ContainsFunc(mapped, func(p netip.Prefix) bool { return p.Contains(n.To) }) {
		return true
	}
	return h.Addr.IsValid() && (!n.To.IsValid() || n.To == h.Addr) && h.Ports.OverlapsRange(n.Ports)
}

func (n DestinationNAT) String() string {
	s := "chain " + n.Chain
	if n.To.IsValid() {
		s += " for " + n.To.String()
	}
	if n.Ports.First == n.Ports.Last {
		return fmt.Sprintf("%s publishes port %d", s, n.Ports.First)
	}
	return s + " publishes ports " + n.Ports.String()
}

// ReadDestinationNAT finds the rules of others in nftables, those of iptables-nft
// among them, that name their ports themselves. Services of kube-proxy, whose
// addresses are not the host's, do not.
func ReadDestinationNAT() (rules []DestinationNAT, err error) {
	err = eachNATRule(*nftables.ChainHookPrerouting, func(chain string, exprs []expr.Any) {
		if n, is := destinationNAT(exprs); is && n.Ports != (ports.Range{}) {
			n.Chain = chain
			rules = append(rules, n)
		}
	})
	slices.SortFunc(rules, func(a, b DestinationNAT) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(rules), err
}

// Offsets of the destination in the IPv4 header (RFC 791 3.1) and of its port in
// those of TCP and UDP.
const offDestination4, offDestinationPort = 16, 2

// destinationNAT reads one rule.
func destinationNAT(exprs []expr.Any) (n DestinationNAT, is bool) {
	loaded := map[uint32]expr.Payload{}
	port := func(register uint32) bool {
		p := loaded[register]
		return p.Base == expr.PayloadBaseTransportHeader && p.Offset == offDestinationPort && p.Len == 2
	}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			delete(loaded, e.Register)
		case *expr.Bitwise:
			delete(loaded, e.DestRegister)
		case *expr.Payload:
			loaded[e.DestRegister] = *e
		case *expr.Cmp:
			p := loaded[e.Register]
			switch {
			case port(e.Register):
				n.compare(e)
			case e.Op != expr.CmpOpEq:
			case p.Base == expr.PayloadBaseNetworkHeader && p.Offset == offDestination4 && p.Len == 4:
				n.To = addrIn(e.Data)
			}
		case *expr.Range:
			if e.Op == expr.CmpOpEq && port(e.Register) {
				n.Ports = portsIn(e.FromData, e.ToData)
			}
		case *expr.NAT:
			is = is || e.Type == expr.NATTypeDestNAT && (e.Family == unix.NFPROTO_IPV4 || e.Family == unix.NFPROTO_INET)
		case *expr.Redir:
			is = true
		case *expr.Target:
			is = is || e.Name == "DNAT" || e.Name == "REDIRECT"
		}
	}
	return n, is
}

// compare notes the ports of a comparison; a range is two of them.
func (n *DestinationNAT) compare(e *expr.Cmp) {
	p := portsIn(e.Data, nil)
	switch e.Op {
	case expr.CmpOpEq:
		n.Ports = p
	case expr.CmpOpGte:
		n.Ports = ports.Range{First: p.First, Last: max(p.First, n.Ports.Last)}
	case expr.CmpOpLte:
		n.Ports.Last = p.First
	}
}
