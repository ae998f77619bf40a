package route

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const circleChain = "circle"

// circleRules drop what the translator sent and the kernel would bring back to
// it: an address that leads to the device and is nobody's, an IPv6 address within
// the prefix that has no route of its own. The translator lets none of that out;
// should one come all the same, it would go round until its hop limit is used up.
// What is to or from the translator's own addresses is between a workload and the
// stack behind them, and may come back once.
func circleRules(def *nftDef, d Desired, device string) {
	priority := nftables.ChainPriority(-310) // before the host's own filters
	def.chains = append(def.chains, nftables.Chain{
		Name: circleChain, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: &priority})
	const c = circleChain
	def.add(c, "accept what is not from the device", meta(expr.MetaKeyIIFNAME), isNot(ifname(device)...), verdict(expr.VerdictAccept))
	def.add(c, "accept what is not back to the device", meta(expr.MetaKeyOIFNAME), isNot(ifname(device)...), verdict(expr.VerdictAccept))
	for _, own := range []struct {
		family    byte
		addr      []byte
		src, dest uint32
	}{
		{unix.NFPROTO_IPV4, d.IPv4.AsSlice(), offSource, offDestination},
		{unix.NFPROTO_IPV6, d.IPv6.AsSlice(), 8, 24},
	} {
		for _, offset := range []uint32{own.src, own.dest} {
			if own.addr != nil {
				def.add(c, fmt.Sprintf("accept between a workload and the translator (ipv%d, %d)", map[byte]int{unix.NFPROTO_IPV4: 4, unix.NFPROTO_IPV6: 6}[own.family], offset),
					meta(expr.MetaKeyNFPROTO), is(own.family), load(expr.PayloadBaseNetworkHeader, offset, uint32(len(own.addr))), is(own.addr...),
					verdict(expr.VerdictAccept))
			}
		}
	}
	def.add(c, dropCircle, counted(expr.VerdictDrop))
}
