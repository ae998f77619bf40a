package route

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/nftsocket"
	"github.com/natless/natless/translator/ports"
)

// Source NAT of somebody else (Docker, Podman, kube-proxy, a script) to an
// address that workloads share takes ports of it as it likes: the kernel's NAT
// looks at its own connections only, knows no ip_local_reserved_ports, and keeps
// the port that a program behind it chose, or takes any of 1024 to 65535. Where
// that port belongs to a workload, answers go to the workload, or the workload's
// to that program. There is no way to tell the kernel from outside; who makes
// the rule can give it a range. So such rules are found, and said.

// SourceNAT is a rule that gives packets another source.
type SourceNAT struct {
	Chain   string       // "ip nat POSTROUTING"
	Program string       // "nft", or "iptables"
	Out     []string     // interfaces that it is for; none: any
	NotOut  []string     // interfaces that it is not for
	To      netip.Prefix // what the source becomes; invalid: the interface's own address, or not known
	Masq    bool         // it becomes the interface's own address
	Ports   ports.Range  // from which the port is taken; zero: any
	Engine  string       // whose it is, where the chain's name says so: kube-proxy, portmap
	Idle    bool         // it is for packets that the engine has marked, and it marks none that leave by an uplink
}

// byMark are chains that engines of clusters always have, and that are for nothing but
// packets that other rules of their table have marked, by leading them to a chain of
// their own, or themselves.
var byMark = []struct {
	engine, masquerades string
	marks               string // the chain
	local               bool   // what is marked goes to containers of this host
}{
	{engine: "kube-proxy", masquerades: " kube-proxy masquerading", marks: " kube-proxy mark-for-masquerade"}, // nftables
	{engine: "kube-proxy", masquerades: " nat KUBE-POSTROUTING", marks: " nat KUBE-MARK-MASQ"},                // iptables
	{engine: "portmap", masquerades: " nat CNI-HOSTPORT-MASQ", marks: " nat CNI-HOSTPORT-SETMARK", local: true},
}

// attribute says whose the rule is. marking are the chains that mark, and those to which
// rules lead.
func (n *SourceNAT) attribute(marking map[string]bool) {
	for _, m := range byMark {
		family, is := strings.CutSuffix(n.Chain, m.masquerades)
		if is && !strings.Contains(family, " ") {
			n.Engine, n.Idle = m.engine, m.local || !marking[family+m.marks]
		}
	}
}

// marking notes which chain a rule leads to, and marks of kube-proxy's own table, where
// rules of services mark packets themselves (1.37 does).
func marking(chain string, exprs []expr.Any, all map[string]bool) {
	if to := leadsTo(exprs); to != "" {
		all[chain[:strings.LastIndex(chain, " ")+1]+to] = true
	}
	family, name, own := strings.Cut(chain, " kube-proxy ")
	if own && name != "masquerading" && name != "mark-for-masquerade" && slices.ContainsFunc(exprs, func(e expr.Any) bool {
		m, is := e.(*expr.Meta)
		return is && m.SourceRegister && m.Key == expr.MetaKeyMARK
	}) {
		all[family+" kube-proxy mark-for-masquerade"] = true
	}
}

// Takes reports whether the rule may take ports of a pool on the uplink's own
// address, or of addresses of workloads.
func (n SourceNAT) Takes(h HostPool, uplink string, mapped []netip.Prefix) bool {
	return !n.Idle && n.Could(h, uplink, mapped)
}

// Could is Takes, whether the rule is idle or not.
func (n SourceNAT) Could(h HostPool, uplink string, mapped []netip.Prefix) bool {
	if len(n.Out) > 0 && !slices.Contains(n.Out, uplink) || slices.Contains(n.NotOut, uplink) {
		return false
	}
	if n.To.IsValid() && slices.ContainsFunc(mapped, n.To.Overlaps) {
		return true
	}
	if !h.Addr.IsValid() || !n.Masq && n.To.IsValid() && !n.To.Contains(h.Addr) {
		return false
	}
	return n.Ports == ports.Range{} || h.Ports.OverlapsRange(n.Ports)
}

// Remedy says how the rule keeps off the pool's ports.
func (n SourceNAT) Remedy(h HostPool) string {
	if n.Engine == "kube-proxy" {
		return "kube-proxy cannot be given ports: have services of IPv6 alone (ipFamilies), or give the pool an address of its own"
	}
	free := widest(h.Ports)
	if n.Program == "iptables" {
		return fmt.Sprintf("give the rule ports outside of the pool (-j MASQUERADE --to-ports %v, for -p tcp and -p udp)", free)
	}
	return fmt.Sprintf("give the rule ports outside of the pool (meta l4proto { tcp, udp } masquerade to :%v)", free)
}

func (n SourceNAT) String() string {
	s := "chain " + n.Chain
	if len(n.Out) > 0 {
		s += " to " + strings.Join(n.Out, ", ")
	}
	if len(n.NotOut) > 0 {
		s += " not to " + strings.Join(n.NotOut, ", ")
	}
	if n.Ports != (ports.Range{}) {
		s += " with ports " + n.Ports.String()
	}
	return s
}

// ReadSourceNAT finds the rules of others in nftables, those of iptables-nft
// among them, in this thread's network namespace. What the older iptables has
// cannot be read; legacy says that there is some.
func ReadSourceNAT() (rules []SourceNAT, legacy bool, err error) {
	names, _ := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	legacy = slices.Contains(strings.Fields(string(names)), "nat")
	marks := map[string]bool{}
	err = eachNATRule(*nftables.ChainHookPostrouting, func(chain string, exprs []expr.Any) {
		if n, is := sourceNAT(exprs); is {
			n.Chain = chain
			rules = append(rules, n)
		}
		marking(chain, exprs, marks)
	})
	if err != nil {
		return nil, legacy, err
	}
	for i := range rules {
		rules[i].attribute(marks)
	}
	slices.SortFunc(rules, func(a, b SourceNAT) int { return cmp.Compare(a.String(), b.String()) })
	return slices.CompactFunc(rules, func(a, b SourceNAT) bool { return a.String() == b.String() }), legacy, nil
}

// eachNATRule calls f for the rules for IPv4 of others' tables that have a chain of
// NAT at a hook: what changes a packet there may stand in any chain of the table.
func eachNATRule(hook nftables.ChainHook, f func(chain string, exprs []expr.Any)) error {
	c, err := nftsocket.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	var all []chainRule
	err = c.Unchanged(func() (err error) {
		all, err = natRules(c, hook)
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range all {
		f(r.chain, r.exprs)
	}
	return nil
}

// chainRule is a rule and where it stands.
type chainRule struct {
	chain string
	exprs []expr.Any
}

func natRules(c *nftsocket.Conn, hook nftables.ChainHook) (out []chainRule, err error) {
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	type table struct {
		family nftables.TableFamily
		name   string
	}
	nat := map[table]bool{}
	for _, chain := range chains {
		if chain.Type == nftables.ChainTypeNAT && chain.Hooknum != nil && *chain.Hooknum == hook {
			nat[table{chain.Table.Family, chain.Table.Name}] = true
		}
	}
	for _, chain := range chains {
		family := chain.Table.Family
		if !nat[table{family, chain.Table.Name}] || family != nftables.TableFamilyIPv4 && family != nftables.TableFamilyINet ||
			chain.Table.Name == nftTableName {
			continue
		}
		all, err := c.GetRules(chain.Table, chain)
		if err != nil {
			continue // the chain has just gone, or has what the library cannot read
		}
		for _, r := range all {
			out = append(out, chainRule{fmt.Sprintf("%s %s %s", familyName(family), chain.Table.Name, chain.Name), r.Exprs})
		}
	}
	return out, nil
}

// leadsTo is the chain that a rule leads to; "": none.
func leadsTo(exprs []expr.Any) string {
	for _, e := range exprs {
		if v, is := e.(*expr.Verdict); is && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
			return v.Chain
		}
	}
	return ""
}

// sourceNAT reads one rule.
func sourceNAT(exprs []expr.Any) (n SourceNAT, is bool) {
	registers := map[uint32][]byte{}
	loaded := map[uint32]expr.MetaKey{}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			loaded[e.Register] = e.Key
		case *expr.Payload:
			delete(loaded, e.DestRegister)
		case *expr.Immediate:
			registers[e.Register] = e.Data
		case *expr.Cmp:
			n.interfaces(loaded[e.Register], e)
		case *expr.Masq:
			n.Program, n.Masq, is = "nft", true, true
			if e.ToPorts {
				n.Ports = portsIn(registers[e.RegProtoMin], registers[e.RegProtoMax])
			}
		case *expr.NAT:
			if e.Type != expr.NATTypeSourceNAT || e.Family != unix.NFPROTO_IPV4 && e.Family != unix.NFPROTO_INET {
				continue
			}
			n.Program, is = "nft", true
			n.To = single(addrIn(registers[e.RegAddrMin]))
			if e.RegProtoMin != 0 {
				n.Ports = portsIn(registers[e.RegProtoMin], registers[e.RegProtoMax])
			}
		case *expr.Target:
			if e.Name == "MASQUERADE" || e.Name == "SNAT" {
				n.Program, n.Masq, is = "iptables", e.Name == "MASQUERADE", true
				n.target(e.Info)
			}
		}
	}
	return n, is
}

// interfaces notes for which the rule is.
func (n *SourceNAT) interfaces(key expr.MetaKey, e *expr.Cmp) {
	var name string
	switch key {
	case expr.MetaKeyOIFNAME:
		name, _, _ = strings.Cut(string(e.Data), "\x00")
		if !strings.Contains(string(e.Data), "\x00") { // a prefix: eth+
			return
		}
	case expr.MetaKeyOIF:
		name = nameOf(e.Data)
	}
	switch {
	case name == "":
	case e.Op == expr.CmpOpEq:
		n.Out = append(n.Out, name)
	case e.Op == expr.CmpOpNeq:
		n.NotOut = append(n.NotOut, name)
	}
}

// target reads what iptables gives the kernel: struct nf_nat_ipv4_multi_range_compat,
// or the same as raw bytes where the library does not know the target.
func (n *SourceNAT) target(info xt.InfoAny) {
	const mapIPs, protoSpecified = 1, 2 // NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED
	multi, ok := info.(*xt.NatIPv4MultiRangeCompat)
	if !ok || len(*multi) != 1 {
		return
	}
	r := (*multi)[0]
	if r.Flags&protoSpecified != 0 {
		n.Ports = ports.Range{First: r.MinPort, Last: r.MaxPort}
	}
	if a, ok := netip.AddrFromSlice(r.MinIP.To4()); ok && r.Flags&mapIPs != 0 && r.MinIP.Equal(r.MaxIP) {
		n.To = single(a)
	}
}

func portsIn(first, last []byte) (p ports.Range) {
	if len(first) < 2 {
		return p
	}
	p.First = binary.BigEndian.Uint16(first)
	p.Last = p.First
	if len(last) >= 2 {
		p.Last = binary.BigEndian.Uint16(last)
	}
	return p
}

func addrIn(b []byte) netip.Addr {
	if len(b) < 4 {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(b[:4])
	return a
}

// nameOf is the interface of an index, as a rule compares it.
func nameOf(index []byte) string {
	if len(index) != 4 {
		return ""
	}
	i, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(index)))
	if err != nil {
		return ""
	}
	return i.Name
}
