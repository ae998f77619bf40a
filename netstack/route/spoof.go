package route

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	spoofChain = "antispoof"
	pathChain  = "reverse-path"
	cameSet    = "came"
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

// spoofDef drops, and counts, what goes to the translator with a source that
// the host would not reach through the interface it came from: a workload that
// uses the address of another. A check of each workload's own interface, for
// those that share one (a bridge), belongs in the same chain, in front.
func spoofDef(d Desired) nftDef {
	def := nftDef{family: nftables.TableFamilyINet, chains: []nftables.Chain{
		{Name: spoofChain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
		{Name: pathChain},
	}, sets: []nftSet{{Set: nftables.Set{
		Name: cameSet, KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeIP6Addr), Concatenation: true,
		Dynamic: true, HasTimeout: true, Timeout: cameLasts, Size: cameSize,
	}}}}
	for _, p := range routed6(d) {
		m := make([]byte, 16)
		for i := range p.Bits() {
			m[i/8] |= 0x80 >> (i % 8)
		}
		def.add(spoofChain, fmt.Sprintf("ask where what goes to %v comes from", p),
			meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV6),
			load(expr.PayloadBaseNetworkHeader, 24, 16), mask(m), is(p.Addr().AsSlice()...), jump(pathChain))
	}
	def.add(pathChain, "accept whose way was looked up a moment ago", came(),
		[]expr.Any{&expr.Lookup{SourceRegister: cameKey, SetName: cameSet}}, verdict(expr.VerdictAccept))
	def.add(pathChain, "drop from a source that is routed elsewhere",
		// fib saddr . iif oif missing: RFC 3704 2.2, strict reverse path
		[]expr.Any{&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true}}, is(0, 0, 0, 0),
		counted(expr.VerdictDrop))
	def.add(pathChain, "remember for a moment whose way this is", came(),
		[]expr.Any{&expr.Dynset{SrcRegKey: cameKey, SetName: cameSet, Operation: unix.NFT_DYNSET_OP_ADD, Timeout: cameLasts}})
	return def
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

// AntiSpoofing is whether packets with another's source are dropped, and how
// many were.
type AntiSpoofing struct {
	Installed      bool
	Packets, Bytes uint64
}

// ReadAntiSpoofing reads it from the kernel of this thread's network namespace.
func ReadAntiSpoofing() (AntiSpoofing, error) {
	var a AntiSpoofing
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return a, fmt.Errorf("nftables: %w", err)
	}
	defer c.CloseLasting()
	rules, err := readNftRules(c, nftables.TableFamilyINet)
	if err != nil {
		return a, err
	}
	for _, r := range rules {
		if r.chain != pathChain {
			continue
		}
		a.Installed = true
		for _, e := range r.exprs {
			if counter, ok := e.(*expr.Counter); ok {
				a.Packets += counter.Packets
				a.Bytes += counter.Bytes
			}
		}
	}
	return a, nil
}
