package route

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/internal/nftsocket"
)

const (
	spoofFamily = "inet"
	spoofChain  = "antispoof"
	pathChain   = "reverse-path"
	oursChain   = "ours"
	cameSet     = "came"
	ours4Set    = "ours4"
	ours6Set    = "ours6"
	heads4Set   = "heads4"
	heads6Set   = "heads6"
	fabricSet   = "fabric"
)

// The route to a source is looked up by an expression that makes an entry of its
// own for each packet, which costs as much as all the rest of the way to the
// device. So what was found is remembered for a moment: which addresses came by
// which interface and may. It is a cache of routes, and has nothing of
// connections; where it is full or flushed, routes are looked up.
const (
	cameLasts = time.Second // how long a route that has changed is still followed
	cameSize  = 1 << 16
)

// spoofDef drops, and counts, what has a source that it cannot have:
//
//   - what goes to the translator from a source that the host would not reach
//     through the interface it came from: a workload that uses the address of
//     another, or a stranger that uses a workload's. The interfaces of the
//     fabric count as one;
//   - what has an address of the translator's as its source, and comes from
//     anywhere but the device and the host itself: a mapped address, one of a
//     pool, the host's own that is shared, the translator's, one of the prefix.
//     It would be translated to a packet from that workload's own IPv6 address,
//     which no filter by source tells from the workload's, or be taken for an
//     answer from the IPv4 network.
//
// Where a route of somebody else's leads such an address elsewhere, it is not
// ours, and may come from there. All of it holds whatever rp_filter is. What is
// at each workload's own interface or port is package guard's.
func spoofDef(device string, d Desired, f facts) nftDef {
	ours4 := addressSet(ours4Set, nftables.TypeIPAddr, append(routed4(d, f), single(d.HostPool.Addr)))
	ours6 := addressSet(ours6Set, nftables.TypeIP6Addr, routed6(d))
	def := nftDef{family: nftables.TableFamilyINet, chains: []nftables.Chain{
		{Name: spoofChain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
		{Name: pathChain}, {Name: oursChain},
	}, sets: []nftSet{{Set: nftables.Set{
		Name: cameSet, KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeIP6Addr), Concatenation: true,
		Dynamic: true, HasTimeout: true, Timeout: cameLasts, Size: cameSize,
	}}, ours4, headSet(ours4), ours6, headSet(ours6)}}
	def.add(spoofChain, "accept what comes from the device "+device,
		meta(expr.MetaKeyIIFNAME), is(ifname(device)...), verdict(expr.VerdictAccept))
	def.add(spoofChain, "ask where what has an IPv4 source of ours comes from",
		meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV4),
		load(expr.PayloadBaseNetworkHeader, offSource, 4), mask([]byte{0xff, 0xff, 0, 0}), oneOf(heads4Set),
		load(expr.PayloadBaseNetworkHeader, offSource, 4), oneOf(ours4Set), jump(oursChain))
	def.add(spoofChain, "ask where what goes to the translator comes from",
		meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV6),
		load(expr.PayloadBaseNetworkHeader, 24, 4), oneOf(heads6Set),
		load(expr.PayloadBaseNetworkHeader, 24, 16), oneOf(ours6Set), jump(pathChain))
	def.add(spoofChain, "ask where what has an IPv6 source of ours comes from",
		meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV6),
		load(expr.PayloadBaseNetworkHeader, 8, 4), oneOf(heads6Set),
		load(expr.PayloadBaseNetworkHeader, 8, 16), oneOf(ours6Set), jump(oursChain))
	def.add(pathChain, "accept whose way was looked up a moment ago", came(),
		[]expr.Any{&expr.Lookup{SourceRegister: cameKey, SetName: cameSet}}, verdict(expr.VerdictAccept))
	if len(d.Fabric) > 0 {
		def.sets = append(def.sets, namesSet(fabricSet, d.Fabric))
		names := crc32.ChecksumIEEE([]byte(strings.Join(d.Fabric, " "))) // tables are compared by their texts
		def.add(pathChain, fmt.Sprintf("remember what comes by the fabric, and is there by a route (%08x)", names), meta(expr.MetaKeyIIFNAME), oneOf(fabricSet),
			[]expr.Any{&expr.Fib{Register: 1, ResultOIFNAME: true, FlagSADDR: true}}, oneOf(fabricSet), came(), remember(),
			verdict(expr.VerdictAccept))
	}
	def.add(pathChain, dropElsewhere, routedElsewhere(), counted(expr.VerdictDrop))
	def.add(pathChain, "remember for a moment whose way this is", came(), remember())
	def.add(oursChain, "return what comes from the host itself",
		meta(expr.MetaKeyIIF), is(binary.NativeEndian.AppendUint32(nil, loopback)...), verdict(expr.VerdictReturn))
	def.add(oursChain, dropOurs, routedElsewhere(), counted(expr.VerdictDrop))
	return def
}

// remember notes the key that came has loaded.
func remember() []expr.Any {
	return []expr.Any{&expr.Dynset{SrcRegKey: cameKey, SetName: cameSet, Operation: unix.NFT_DYNSET_OP_ADD, Timeout: cameLasts}}
}

// namesSet is a set of interfaces, by their names: they may come and go.
func namesSet(name string, interfaces []string) nftSet {
	s := nftSet{Set: nftables.Set{Name: name, KeyType: nftables.TypeIFName}}
	for _, i := range interfaces {
		s.elements = append(s.elements, nftables.SetElement{Key: ifname(i)})
	}
	return s
}

// ifname is an interface's name as meta has it. The device is known by it, so
// that the rules are right for one that was made anew, too.
func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

// loopback is lo's interface index in every network namespace.
const loopback = 1

// The rules that count.
const (
	dropElsewhere = "drop from a source that is routed elsewhere"
	dropOurs      = "drop from a source of ours"
)

// Causes of drops, as metrics name them, by the text of the rule.
var causes = map[string]string{dropElsewhere: "reverse-path", dropOurs: "own-source"}

// routedElsewhere: fib saddr . iif oif missing (RFC 3704 2.2, strict reverse path).
func routedElsewhere() []expr.Any {
	return append([]expr.Any{&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true}}, is(0, 0, 0, 0)...)
}

// cameKey is the first of the registers of four bytes: with those behind it, it
// has the key of cameSet.
const cameKey = unix.NFT_REG32_00

// came loads the key: iif . ip6 saddr.
func came() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: cameKey},
		&expr.Payload{DestRegister: cameKey + 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
	}
}

// AntiSpoofing is whether packets with a source that they cannot have are
// dropped, and how many were, by cause.
type AntiSpoofing struct {
	Installed      bool
	Packets, Bytes uint64
	Causes         map[string]uint64 // packets
}

// ReadAntiSpoofing reads it from the kernel of this thread's network namespace.
func ReadAntiSpoofing() (AntiSpoofing, error) {
	a := AntiSpoofing{Causes: map[string]uint64{}}
	c, err := nftsocket.Open()
	if err != nil {
		return a, err
	}
	defer c.Close()
	var rules []nftRule
	err = c.Unchanged(func() (err error) {
		rules, err = readNftRules(c.Conn, nftables.TableFamilyINet)
		return err
	})
	if err != nil {
		return a, err
	}
	for _, r := range rules {
		cause, ok := causes[r.text]
		if !ok {
			continue
		}
		a.Installed = true
		for _, e := range r.exprs {
			if counter, ok := e.(*expr.Counter); ok {
				a.Packets += counter.Packets
				a.Bytes += counter.Bytes
				a.Causes[cause] += counter.Packets
			}
		}
	}
	return a, nil
}
