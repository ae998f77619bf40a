package guard

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the name of our tables, one in each family that is needed.
const tableName = "natless-guard"

// tableDef is one of them: chains, sets and rules that never change.
type tableDef struct {
	family nftables.TableFamily
	chains []nftables.Chain
	sets   []nftables.Set
	rules  []ruleDef
}

// ruleDef is a rule; its text is its comment in the kernel.
type ruleDef struct {
	chain, text string
	exprs       []expr.Any
}

func (d *tableDef) add(chain, text string, exprs ...[]expr.Any) {
	r := ruleDef{chain: chain, text: text}
	for _, e := range exprs {
		r.exprs = append(r.exprs, e...)
	}
	d.rules = append(d.rules, r)
}

// text is what the rules are compared by.
func text(rules []ruleDef) (s string) {
	for _, r := range rules {
		s += r.chain + ": " + r.text + "\n"
	}
	return s
}

// The rules that count.
const (
	dropIPv4     = "drop IPv4 that the host would not answer there"
	dropErrors   = "drop errors to the translator from an address without a mapping"
	dropSource   = "drop from an address of a workload at another port"
	dropHost     = "drop from an address of the host itself"
	dropClaim    = "drop a claim to an address of a workload at another port"
	dropHostNA   = "drop a claim to an address of the host itself"
	dropRA       = "drop router advertisements"
	dropRedirect = "drop redirects"
	dropTags     = "drop VLAN tags within VLAN tags"
)

// Causes of drops, as metrics name them, by the text of the rule.
var causes = map[string]string{
	dropIPv4: "ipv4-at-workload", dropErrors: "error-without-mapping", dropSource: "bridge-source", dropHost: "bridge-source",
	dropClaim: "bridge-neighbour", dropHostNA: "bridge-neighbour", dropRA: "bridge-router",
	dropRedirect: "bridge-router", dropTags: "bridge-tags",
}

const (
	guardChain  = "guard"
	errorsChain = "errors"
	portsChain  = "ports"
	otherChain  = "other"
	ndChain     = "neighbour-discovery"
	claimChain  = "claim"

	// attachedPriority is before package route's raw, which is the more work.
	attachedPriority = -310
	portPriority     = -300
)

// Offsets in the IPv6 header (RFC 8200 3), and behind an ICMPv6 header the target
// of neighbour solicitations and advertisements (RFC 4861 4.3, 4.4).
const (
	offSource = 8
	offTarget = 8

	errorsBelow  = 128 // ICMPv6 types (RFC 4443 2.1)
	firstND      = 133
	routerAdvert = 134
	solicitation = 135
	advert       = 136
	redirect     = 137
)

// attachedDef is what is policed where workloads are attached: their IPv4, which
// they have none of, and their errors.
//
// IPv4 that comes in there has to have a source that the host would reach there,
// whatever rp_filter is. IPv6-only workloads have none, so all of theirs goes. A
// container with IPv4 of its own, on a bridge that it shares with workloads or
// with a range of its own, has a route of the host's, and so will workloads with
// IPv4 inside. An address of the translator's never does: that is package
// route's, for every interface.
//
// An ICMPv6 error comes from the workload that it is about, or a router on the
// way to it; where there is none, from an address with a mapping. Which of them
// may tell of what, the translator knows. What the translator refuses by itself
// goes on to it, so that the sender hears of it.
func attachedDef(device string) tableDef {
	def := tableDef{family: nftables.TableFamilyINet,
		chains: []nftables.Chain{hooked(guardChain, attachedPriority), {Name: errorsChain}},
		sets: []nftables.Set{plain(attachedSet, nftables.TypeIFIndex), plain(sourcesSet, nftables.TypeIP6Addr),
			{Name: rangesSet, KeyType: nftables.TypeIP6Addr, Interval: true}},
	}
	c := guardChain
	def.add(c, "accept where no workload is attached", meta(expr.MetaKeyIIF), notIn(attachedSet), verdict(expr.VerdictAccept))
	def.add(c, dropIPv4, meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV4),
		[]expr.Any{&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true}}, is(0, 0, 0, 0), drop())
	def.add(c, "look at ICMPv6 errors to the device "+device, meta(expr.MetaKeyL4PROTO), is(unix.IPPROTO_ICMPV6),
		transport(0, 1), below(errorsBelow), jump(errorsChain))
	c = errorsChain
	def.add(c, "return from workloads", network(offSource, 16), in(sourcesSet), verdict(expr.VerdictReturn))
	def.add(c, "return from workloads with prefixes", network(offSource, 16), in(rangesSet), verdict(expr.VerdictReturn))
	def.add(c, dropErrors, []expr.Any{&expr.Fib{Register: 1, ResultOIFNAME: true, FlagDADDR: true}}, is(name(device)...), drop())
	return def
}

// portsDef is what is policed at the ports of bridges on which workloads' ports
// are known: an address of a workload, as a source or in neighbour discovery, is
// taken from that workload's port alone, and nobody there poses as the host or
// as a router. Other addresses and other ports are left alone.
//
// The bridge learns no MAC address from what is dropped here; that a workload
// keeps to its own is the bridge plugin's (macspoofchk).
func portsDef() tableDef {
	at := nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeIP6Addr)
	pair := func(name string) nftables.Set { return nftables.Set{Name: name, KeyType: at, Concatenation: true} }
	def := tableDef{family: nftables.TableFamilyBridge,
		chains: []nftables.Chain{hooked(portsChain, portPriority), {Name: otherChain}, {Name: ndChain}, {Name: claimChain}},
		sets: []nftables.Set{plain(watchedSet, nftables.TypeIFIndex), plain(portsSet, nftables.TypeIFIndex),
			pair(atSet), plain(theirsSet, nftables.TypeIP6Addr), pair(ownSet)},
	}
	ifindex := meta(expr.MetaKeyIIF)
	c := portsChain
	def.add(c, "accept at bridges without a workload", ifindex, notIn(watchedSet), verdict(expr.VerdictAccept))
	def.add(c, "look at what is not IPv6", meta(expr.MetaKeyPROTOCOL), isNot(be16(unix.ETH_P_IPV6)...), jumpOff(otherChain))
	def.add(c, "look at neighbour discovery", meta(expr.MetaKeyL4PROTO), is(unix.IPPROTO_ICMPV6),
		transport(0, 1), between(firstND, redirect), jump(ndChain))
	def.add(c, "accept from a workload at its port", portAnd(expr.PayloadBaseNetworkHeader, offSource), portIn(atSet),
		verdict(expr.VerdictAccept))
	def.add(c, dropSource, network(offSource, 16), in(theirsSet), drop())
	def.add(c, dropHost, portAnd(expr.PayloadBaseNetworkHeader, offSource), portIn(ownSet), drop())

	// A tag within a priority tag would hide IPv6 from the rules above, and be
	// taken off by the kernel afterwards.
	c = otherChain
	for _, proto := range []uint16{unix.ETH_P_8021Q, unix.ETH_P_8021AD} {
		def.add(c, dropTags, meta(expr.MetaKeyPROTOCOL), is(be16(proto)...), ifindex, in(portsSet), drop())
	}

	c = ndChain // RFC 4861
	def.add(c, dropRA, transport(0, 1), is(routerAdvert), ifindex, in(portsSet), drop())
	def.add(c, dropRedirect, transport(0, 1), is(redirect), ifindex, in(portsSet), drop())
	def.add(c, "look at what advertisements claim", transport(0, 1), is(advert), jump(claimChain))
	// RFC 4862 5.4.2: who looks for duplicates of an address is about to take it.
	def.add(c, "look at what the search for duplicates claims", transport(0, 1), is(solicitation),
		network(offSource, 16), is(make([]byte, 16)...), jump(claimChain))

	c = claimChain
	target := portAnd(expr.PayloadBaseTransportHeader, offTarget)
	def.add(c, "return where a workload claims its own", target, portIn(atSet), verdict(expr.VerdictReturn))
	def.add(c, dropClaim, transport(offTarget, 16), in(theirsSet), drop())
	def.add(c, dropHostNA, target, portIn(ownSet), drop())
	return def
}

func hooked(name string, priority int) nftables.Chain {
	p := nftables.ChainPriority(priority)
	return nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &p}
}

func plain(name string, kind nftables.SetDatatype) nftables.Set {
	s := nftables.Set{Name: name, KeyType: kind}
	if kind == nftables.TypeIFIndex {
		s.KeyByteOrder = binaryutil.NativeEndian // for who lists it
	}
	return s
}

// The smallest words of nftables. All use register 1, but for pairs.

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func network(offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}}
}

func transport(offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}}
}

// pairKey is the first of the registers of four bytes that hold a pair.
const pairKey = unix.NFT_REG32_00

// portAnd loads a pair: the port and an address.
func portAnd(base expr.PayloadBase, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: pairKey},
		&expr.Payload{DestRegister: pairKey + 1, Base: base, Offset: offset, Len: 16},
	}
}

func portIn(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: pairKey, SetName: set}}
}

func in(set string) []expr.Any { return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set}} }

func notIn(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set, Invert: true}}
}

func is(value ...byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func isNot(value ...byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

func below(value byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{value}}}
}

func between(first, last byte) []expr.Any {
	return []expr.Any{&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{first}, ToData: []byte{last}}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func drop() []expr.Any { return append([]expr.Any{&expr.Counter{}}, verdict(expr.VerdictDrop)...) }

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// jumpOff does not come back.
func jumpOff(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func be16(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }

// name is an interface's name as the kernel has it.
func name(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

// MissingFeatureError says that the kernel lacks something; Since is the first
// Linux that has it.
type MissingFeatureError struct{ Feature, Since, Remedy string }

func (e *MissingFeatureError) Error() string {
	return fmt.Sprintf("the kernel lacks %s (Linux %s or later): %s", e.Feature, e.Since, e.Remedy)
}
