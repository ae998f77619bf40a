package route

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const spoofChain = "antispoof"

// spoofDef drops, and counts, what goes to the translator with a source that
// the host would not reach through the interface it came from: a workload that
// uses the address of another. A check of each workload's own interface, for
// those that share one (a bridge), belongs in the same chain, in front.
func spoofDef(d Desired) nftDef {
	def := nftDef{family: nftables.TableFamilyINet, chains: []nftables.Chain{{
		Name: spoofChain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	}}}
	for _, p := range routed6(d) {
		m := make([]byte, 16)
		for i := range p.Bits() {
			m[i/8] |= 0x80 >> (i % 8)
		}
		def.add(spoofChain, fmt.Sprintf("drop to %v from a source that is routed elsewhere", p),
			meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV6),
			load(expr.PayloadBaseNetworkHeader, 24, 16), mask(m), is(p.Addr().AsSlice()...),
			// fib saddr . iif oif missing: RFC 3704 2.2, strict reverse path
			[]expr.Any{&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true}}, is(0, 0, 0, 0),
			counted(expr.VerdictDrop))
	}
	return def
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
		if r.chain != spoofChain {
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
