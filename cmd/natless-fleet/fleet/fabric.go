package fleet

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/translator/special"
)

// FabricBits is the length of a host's prefix in the fabric: what is behind is the address
// of a block.
const FabricBits = 96

// fabricOf is a host's prefix, or why it can be none.
func fabricOf(text string) (p netip.Prefix, wrong string) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() != FabricBits || p != p.Masked() {
		return netip.Prefix{}, text + " is not an IPv6 prefix of 96 bits"
	}
	if e, never := special.Overlaps(p); never {
		return netip.Prefix{}, fmt.Sprintf("%s is none that a host may have (%s)", text, e.Name)
	}
	return p, ""
}

// WrongFabric is why a prefix can be no host's, or empty.
func WrongFabric(text string) string {
	_, wrong := fabricOf(text)
	return wrong
}

// otherFabric is how the host's prefix as the fleet has it, to which relays lead what is for its
// blocks, is not the one by which natlessd expects that; empty: it is, or natlessd is no edge.
func otherFabric(h *Host, has api.Blocks) string {
	edge := has.EdgeHost
	if !edge.IsValid() {
		return ""
	}
	edge = edge.Masked()
	p, err := netip.ParsePrefix(h.Spec.Fabric)
	switch {
	case err == nil && p.Masked() == edge:
		return ""
	case h.Spec.Fabric == "":
		return fmt.Sprintf("the fleet has no prefix of the fabric for this host, so no relay leads anything to it, and natlessd's edge.host is %s: "+
			"natless-fleet host %s --fabric %s", edge, h.Name, edge)
	}
	return fmt.Sprintf("relays lead what is for this host's blocks to %s (spec.fabric), and natlessd expects it at %s (edge.host): say "+
		"natless-fleet host %s --fabric %s, or edge: {host: \"%s\"} in natless.yaml", h.Spec.Fabric, edge, h.Name, edge, h.Spec.Fabric)
}

// sortFabrics finds out whose the hosts' prefixes are. Of two hosts that claim one it is that
// one's who has blocks there; if neither has, it is nobody's until an operator has mended it.
func (v *view) sortFabrics() {
	v.fabric, v.wrong = map[string]netip.Prefix{}, map[string]string{}
	claims := map[netip.Prefix][]string{}
	for _, h := range v.hosts {
		if h.Spec.Fabric == "" {
			continue
		}
		p, wrong := fabricOf(h.Spec.Fabric)
		if wrong != "" {
			v.wrong[h.Name] = "fabric: " + wrong
			continue
		}
		claims[p] = append(claims[p], h.Name)
	}
	had := map[netip.Prefix]string{}
	for _, b := range v.blocks {
		if p, err := netip.ParsePrefix(b.Spec.IPv6); err == nil {
			had[netip.PrefixFrom(p.Addr(), FabricBits).Masked()] = b.Spec.Host
		}
	}
	for p, names := range claims {
		owner, taken := had[p]
		for _, name := range names {
			switch {
			case taken && owner == name, !taken && len(names) == 1:
				v.fabric[name] = p
			case taken:
				v.wrong[name] = fmt.Sprintf("fabric: %s is host %s's, which has blocks there", p, owner)
			default:
				others := slices.DeleteFunc(slices.Clone(names), func(o string) bool { return o == name })
				v.wrong[name] = fmt.Sprintf("fabric: %s is claimed by %v, too", p, others)
			}
		}
	}
}

// within is a block's addresses in a prefix of a host.
func within(fabric, block netip.Prefix) netip.Prefix {
	b, last := fabric.Addr().As16(), block.Addr().As4()
	copy(b[12:], last[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), FabricBits+block.Bits())
}

// ipv6 is what relays are to lead a block of a host to; "": it is routed to the host.
func (v *view) ipv6(host string, block netip.Prefix) string {
	if fabric, ok := v.fabric[host]; ok {
		return within(fabric, block).String()
	}
	return ""
}
