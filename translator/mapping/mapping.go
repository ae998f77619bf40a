// Package mapping is the translation table: the RFC 6052 prefix, explicit
// mappings (RFC 7757) and port sets (RFC 7597). A Table is immutable; an edit
// gives a new one that shares what did not change. No I/O, no clock and no
// goroutine may enter here.
//
// A mapping is one Entry of half a cache line, which stands in a hash index for each
// prefix length in use, longest length first, of either family: who looks it up waits for
// memory once. The owners of one IPv4 address' ports stand together. Indexes are cut into
// small pieces that an edit copies when it writes to them.
//
// The well-kept table for prefixes is gaissmai/bart, and this one is here because it did
// not reach the figures: measured side by side with this one as it was when entries stood
// apart from their indexes, with nearly all mappings of full length, bart's lookups took
// 3.3 times (IPv6) and 1.8 times (IPv4) as long at 10,000 mappings, 2.4 and 1.6 times at a
// million, an edit of both families 3 times as long with 490 allocations instead of
// twelve, and its memory without any entry was 1.5 times what all took here. Since then
// lookups among a million take two thirds as long, and all takes 1.3 times the memory.
// What bart does better: prefixes of very many lengths, each of which costs a probe here.
package mapping

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/translator/ports"
)

// Mapping ties an IPv6 prefix to an IPv4 prefix (RFC 7757 section 3.1), or,
// where Ports is not empty, to a share of one IPv4 address. Its suffix in IPv4
// (32 − length) must not be longer than that in IPv6 (128 − length).
//
// Inside says that the workload has the IPv4 address itself: it sends and gets
// IPv4, which is forwarded to it, and nothing is translated for it but what goes
// between it and an IPv6-only workload. It takes one address of each family.
//
// Policy is the number of what the workload is held to; two mappings are equal that
// differ in it alone.
type Mapping struct {
	IPv6   netip.Prefix
	IPv4   netip.Prefix
	Ports  ports.Set
	Inside bool
	Policy uint16
}

// String is "2001:db8::2/128 ↔ 192.0.2.2/32 ports 1024-2047 inside".
func (m Mapping) String() string {
	inside := ""
	if m.Inside {
		inside = " inside"
	}
	if m.Ports.IsZero() {
		return fmt.Sprintf("%v ↔ %v%s", m.IPv6, m.IPv4, inside)
	}
	return fmt.Sprintf("%v ↔ %v ports %v%s", m.IPv6, m.IPv4, m.Ports, inside)
}

// Equal says whether m and o tie the same prefixes and ports together, in the
// same way, whatever their policies.
func (m Mapping) Equal(o Mapping) bool {
	return m.IPv6 == o.IPv6 && m.IPv4 == o.IPv4 && m.Inside == o.Inside && m.Ports.Equal(o.Ports)
}

// Validate says what is wrong with m by itself: a family, host bits, a suffix
// longer in IPv4 than in IPv6 (RFC 7757 3.3), addresses that are never
// translated, or a port set or IPv4 inside for more than one address.
func (m Mapping) Validate() error {
	if err := checkPrefix(m.IPv6, "ipv6"); err != nil {
		return err
	}
	if err := checkPrefix(m.IPv4, "ipv4"); err != nil {
		return err
	}
	if len4, len6 := 32-m.IPv4.Bits(), 128-m.IPv6.Bits(); len4 > len6 { // rule 1.2.suffix-length
		return fmt.Errorf("ipv4 %v has %d suffix bits, ipv6 %v only %d: lengthen the ipv4 prefix to /%d (RFC 7757 3.3)",
			m.IPv4, len4, m.IPv6, len6, 32-len6)
	}
	if !m.Ports.IsZero() && m.IPv4.Bits() != 32 {
		return fmt.Errorf("ipv4 %v: a port set shares one address: give a /32", m.IPv4)
	}
	if m.Inside && (m.IPv4.Bits() != 32 || m.IPv6.Bits() != 128) {
		return fmt.Errorf("%v: IPv4 inside the workload takes one address of each family: give a /128 and a /32", m)
	}
	return nil
}

// checkPrefix names p by family: "ipv4", or anything else for IPv6.
func checkPrefix(p netip.Prefix, family string) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return fmt.Errorf("%s: no prefix", family)
	case a.Is4In6():
		return fmt.Errorf("%s %v: an IPv4-mapped address: write it as IPv4", family, p)
	case a.Is4() != (family == "ipv4"):
		return fmt.Errorf("%s %v: wrong address family", family, p)
	case p.Masked() != p:
		return fmt.Errorf("%s %v: host bits are set: did you mean %v?", family, p, p.Masked())
	}
	if never, ok := neverTranslated(p); ok {
		return fmt.Errorf("%s %v: lies in %v, which is never translated", family, p, never)
	}
	return nil
}
