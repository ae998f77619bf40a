package reference

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/mapt"
	"github.com/natless/natless/translator/ports"
)

// A rule of MAP-T is written out here: as the mapping that each CE would have (1.8). All
// is done by digits, as the figures of RFC 7597 have it.

// ces are the CEs that were asked for, by their IPv6 and by their IPv4 address. The same
// CE is the same mapping.
type ces struct {
	by6 map[netip.Addr]*mapping.Mapping
	by4 map[netip.Addr][]*mapping.Mapping
}

// digits are the bits of an address.
func digits(a netip.Addr) string {
	var s strings.Builder
	for _, b := range a.AsSlice() {
		fmt.Fprintf(&s, "%08b", b)
	}
	return s.String()
}

// address is the other way of digits.
func address(bits string) netip.Addr {
	b := make([]byte, len(bits)/8)
	for i, digit := range bits {
		b[i/8] = b[i/8]*2 + byte(digit-'0')
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// padded is digits with zeros in front.
func padded(s string, n int) string { return strings.Repeat("0", n-len(s)) + s }

// psidLength is the sharing of RFC 7597 5.2.
func psidLength(r mapt.Rule) int {
	if r.EABits == 0 {
		return r.PSIDLength
	}
	return max(r.EABits-(32-r.IPv4.Bits()), 0)
}

// CEAddress is the IPv6 address of the CE that has an IPv4 address and, of its ports,
// those of a PSID in digits (RFC 7597 6).
func CEAddress(r mapt.Rule, v4 netip.Addr, psid string) netip.Addr {
	suffix := digits(v4)[r.IPv4.Bits():]
	ea := (suffix + psid)[:r.EABits]
	prefix := digits(r.IPv6.Addr())[:r.IPv6.Bits()] + ea
	subnet := strings.Repeat("0", 64-len(prefix))
	return address(prefix + subnet + strings.Repeat("0", 16) + digits(v4) + padded(psid, 16))
}

// portsOfPSID are the ports A | PSID | M of RFC 7597 5.1.
func portsOfPSID(offset int, psid string) ports.Set {
	var list []ports.Range
	for port := range 1 << 16 {
		p := fmt.Sprintf("%016b", port)
		if !strings.HasPrefix(p[offset:], psid) || offset > 0 && !strings.Contains(p[:offset], "1") {
			continue
		}
		if n := len(list) - 1; n >= 0 && int(list[n].Last)+1 == port {
			list[n].Last++
		} else {
			list = append(list, ports.Single(uint16(port)))
		}
	}
	return ports.Of(list...)
}

// ce is the mapping of the CE that has an IPv4 address and a PSID.
func (t *Translator) ce(r mapt.Rule, v4 netip.Addr, psid string) *mapping.Mapping {
	v6 := CEAddress(r, v4, psid)
	if m := t.ces.by6[v6]; m != nil {
		return m
	}
	m := &mapping.Mapping{IPv6: netip.PrefixFrom(v6, 128), IPv4: netip.PrefixFrom(v4, 32)}
	if psid != "" {
		m.Ports = portsOfPSID(r.PSIDOffset, psid)
	}
	if t.ces.by6 == nil {
		t.ces = ces{map[netip.Addr]*mapping.Mapping{}, map[netip.Addr][]*mapping.Mapping{}}
	}
	t.ces.by6[v6] = m
	return m
}

// ruleAround6 is the rule whose IPv6 prefix an address lies in.
func (t *Translator) ruleAround6(a netip.Addr) (mapt.Rule, bool) {
	for _, r := range t.Config.Rules.All() {
		if r.IPv6.Contains(a) {
			return r, true
		}
	}
	return mapt.Rule{}, false
}

// ce6 is the CE whose IPv6 address is a: exactly what the rule gives it.
func (t *Translator) ce6(a netip.Addr) *mapping.Mapping {
	r, found := t.ruleAround6(a)
	if !found {
		return nil
	}
	bits, n := digits(a), r.IPv6.Bits()
	suffix := 32 - r.IPv4.Bits()
	ea := bits[n : n+r.EABits]
	four := digits(r.IPv4.Addr())[:r.IPv4.Bits()] + ea[:min(suffix, len(ea))]
	four += bits[80+len(four) : 112] // a CE that has a prefix says which of its addresses
	psid := ea[min(suffix, len(ea)):]
	if r.EABits == 0 {
		psid = ownPSID(r)
	}
	if m := t.ce(r, address(four), psid); m.IPv6.Addr() == a {
		return m
	}
	return nil
}

// ownPSID is the PSID of a rule without EA bits.
func ownPSID(r mapt.Rule) string {
	if r.PSIDLength == 0 {
		return ""
	}
	return fmt.Sprintf("%0*b", r.PSIDLength, r.PSID)
}

// ces4 are all CEs that have an IPv4 address.
func (t *Translator) ces4(a netip.Addr) (all []*mapping.Mapping) {
	if all, known := t.ces.by4[a]; known {
		return all
	}
	for _, r := range t.Config.Rules.All() {
		switch {
		case !r.IPv4.Contains(a):
			continue
		case r.EABits == 0 || psidLength(r) == 0:
			all = append(all, t.ce(r, a, ownPSID(r)))
		default:
			for n := range 1 << psidLength(r) {
				all = append(all, t.ce(r, a, fmt.Sprintf("%0*b", psidLength(r), n)))
			}
		}
	}
	if len(all) > 0 {
		t.ces.by4[a] = all
	}
	return all
}

// otherCE refuses an ICMP error from the network of a CE about a packet to another one.
func (c *call) otherCE(from, about netip.Addr) {
	r, found := c.t.ruleAround6(from)
	if !found {
		return
	}
	n := r.IPv6.Bits() + r.EABits
	if digits(from)[:n] != digits(about)[:n] {
		c.rule("1.8.error-sender")
		c.fault(translator.SpoofedSource)
	}
}

// ruleOf notes by which rules of 1.8 an address was translated.
func (c *call) ruleOf(m *mapping.Mapping) {
	if c.t.ces.by6[m.IPv6.Addr()] == m {
		c.rule("1.8.source", "1.8.ea", "1.8.identifier", "1.8.order")
		if !m.Ports.IsZero() {
			c.rule("1.8.psid")
		}
	}
}
