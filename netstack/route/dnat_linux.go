package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/nftsocket"
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

// At reports whether the rule publishes one of some ports of an address of the host's.
func (n DestinationNAT) At(a netip.Addr, list []uint16) bool {
	return (!n.To.IsValid() || n.To == a) && slices.ContainsFunc(list, n.Ports.Contains)
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
// among them, that name their ports themselves, and the ports of nodes of kube-proxy,
// which changes the destination elsewhere. Its services, whose addresses are not the
// host's, are not among them.
func ReadDestinationNAT() (rules []DestinationNAT, err error) {
	err = eachNATRule(*nftables.ChainHookPrerouting, func(chain string, exprs []expr.Any) {
		n, is := destinationNAT(exprs)
		if is = is || strings.HasSuffix(chain, " nat KUBE-NODEPORTS") && leadsTo(exprs) != ""; is && n.Ports != (ports.Range{}) {
			n.Chain = chain
			rules = append(rules, n)
		}
	})
	if err == nil {
		rules, err = nodePorts(rules)
	}
	slices.SortFunc(rules, func(a, b DestinationNAT) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(rules), err
}

// nodePorts adds those of kube-proxy in nftables mode, which are a map of protocols and
// ports to chains: each element has four bytes for either.
func nodePorts(rules []DestinationNAT) ([]DestinationNAT, error) {
	c, err := nftsocket.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"}
	set, err := c.GetSetByName(table, "service-nodeports")
	if err != nil {
		return rules, nil // no kube-proxy, or none of this kind
	}
	elements, err := c.GetSetElements(set)
	if err != nil {
		return rules, nil // it has just gone
	}
	for _, e := range elements {
		if len(e.Key) == 8 {
			rules = append(rules, DestinationNAT{Chain: "ip kube-proxy " + verdictChain(e.Val), Ports: portsIn(e.Key[4:], nil)})
		}
	}
	return rules, nil
}

// verdictChain is where an element of a map leads, which the library does not read.
func verdictChain(val []byte) (chain string) {
	d, err := netlink.NewAttributeDecoder(val)
	if err != nil {
		return ""
	}
	for d.Next() {
		if d.Type() == unix.NFTA_VERDICT_CHAIN {
			chain = d.String()
		}
	}
	return chain
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
