// Package mapt is the mapping rules of MAP-T (RFC 7599): one rule stands for all CEs of
// a network, up to many millions, and what one of them has is computed, not looked up.
// Rules are immutable. No I/O, no clock and no entry for a single CE may enter here.
package mapt

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/natless/natless/translator/ports"
	"github.com/natless/natless/translator/special"
)

// Rule is a basic mapping rule (RFC 7597 5): the CEs whose IPv6 prefixes lie in IPv6 have
// addresses out of IPv4. Of a CE's IPv6 prefix the EABits behind the rule's say which
// part of an address it has: those that IPv4 lacks to 32 first, then its PSID.
type Rule struct {
	IPv6, IPv4 netip.Prefix
	EABits     int
	// PSIDOffset is a of RFC 7597 5.1: the ports below 2^(16-a) are nobody's, unless it is 0.
	PSIDOffset int
	// PSIDLength and PSID are given where there are no EA bits to take them from.
	PSIDLength int
	PSID       uint16
}

// endUser is the longest IPv6 prefix of a CE: behind it comes the interface identifier.
const endUser = 64

// sharing is the length of the PSID: 0 where a CE has an address or more to itself.
func (r Rule) sharing() int {
	if r.EABits == 0 {
		return r.PSIDLength
	}
	return max(0, r.EABits-(32-r.IPv4.Bits()))
}

// String is "2001:db8::/40 ↔ 192.0.2.0/24, 16 EA bits".
func (r Rule) String() string {
	s := fmt.Sprintf("%v ↔ %v, %d EA bits", r.IPv6, r.IPv4, r.EABits)
	if k := r.sharing(); k > 0 {
		s += fmt.Sprintf(", PSID of %d bits at offset %d", k, r.PSIDOffset)
	}
	return s
}

// Field is what of a rule an error is about, as the configuration names it.
type Field string

// The fields.
const (
	FieldIPv6       Field = "ipv6"
	FieldIPv4       Field = "ipv4"
	FieldEABits     Field = "ea_bits"
	FieldPSIDOffset Field = "psid_offset"
	FieldPSIDLength Field = "psid_length"
	FieldPSID       Field = "psid"
)

// Error is what is wrong with a field of a rule.
type Error struct {
	Field Field
	Err   error
}

func (e *Error) Error() string { return string(e.Field) + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Validate says what is wrong with a rule by itself.
func (r Rule) Validate() error {
	refuse := func(f Field, format string, a ...any) error { return &Error{f, fmt.Errorf(format, a...)} }
	if err := checkPrefix(r.IPv6, false); err != nil {
		return &Error{FieldIPv6, err}
	}
	if err := checkPrefix(r.IPv4, true); err != nil {
		return &Error{FieldIPv4, err}
	}
	suffix := 32 - r.IPv4.Bits()
	switch {
	case r.EABits < 0 || r.EABits > 48:
		return refuse(FieldEABits, "%d is not between 0 and 48 (RFC 7597 5)", r.EABits)
	case r.IPv6.Bits()+r.EABits > endUser:
		return refuse(FieldEABits, "%d behind a /%d make prefixes of CEs longer than /64: the interface identifier begins there (RFC 7597 6)",
			r.EABits, r.IPv6.Bits())
	case r.EABits == 0 && suffix > 0:
		return refuse(FieldEABits, "0 leave one CE all of %v: a rule is for many: write a mapping, or an IPv4 /32", r.IPv4)
	case r.EABits > 0 && r.PSID != 0:
		return refuse(FieldPSID, "the EA bits say it: leave it out")
	case r.EABits > 0 && r.PSIDLength != 0 && r.PSIDLength != r.sharing():
		return refuse(FieldPSIDLength, "%d, but %d EA bits behind an IPv4 /%d leave %d: leave it out", r.PSIDLength, r.EABits, r.IPv4.Bits(), r.sharing())
	case r.PSIDOffset < 0 || r.PSIDOffset > 15:
		return refuse(FieldPSIDOffset, "%d is not between 0 and 15 (RFC 7597 5.1)", r.PSIDOffset)
	case r.PSIDLength < 0 || r.sharing() > 16-r.PSIDOffset:
		return refuse(FieldPSIDLength, "%d bits do not fit behind %d of offset: together they must be at most 16 (RFC 7597 5.1)", r.sharing(), r.PSIDOffset)
	case int(r.PSID) >= 1<<r.sharing():
		return refuse(FieldPSID, "%d does not fit into %d bits", r.PSID, r.sharing())
	}
	return nil
}

func checkPrefix(p netip.Prefix, v4 bool) error {
	switch {
	case !p.IsValid():
		return errors.New("missing")
	case p.Addr().Is4() != v4 || p.Addr().Is4In6():
		return fmt.Errorf("%v: wrong address family", p)
	case p != p.Masked():
		return fmt.Errorf("%v: host bits are set: did you mean %v?", p, p.Masked())
	case p.Bits() == 0 || !v4 && p.Bits() > endUser:
		return fmt.Errorf("%v: the length must be 1 to %d", p, min(endUser, p.Addr().BitLen()))
	}
	if e, ok := special.Overlaps(p); ok {
		return fmt.Errorf("%v: holds %v, which is never translated", p, e.Prefix)
	}
	return nil
}

// rule is a Rule as the hot path reads it.
type rule struct {
	hi6, mask6 uint64 // the IPv6 prefix, which is within the upper half
	v4, mask4  uint32
	ea         uint64 // as many ones as there are EA bits
	eaAt       uint8  // where they end in the upper half
	more       uint8  // bits of an IPv4 address that are behind the EA bits: a CE has a prefix
	k, m, a    uint8  // bits of the PSID, behind it, and before it in a port
	psid       uint16 // where there are no EA bits
	index      int
}

func compile(r Rule, index int) rule {
	hi, _ := halves(r.IPv6.Addr())
	suffix, k := 32-r.IPv4.Bits(), r.sharing()
	return rule{
		hi6: hi, mask6: ^uint64(0) << (64 - r.IPv6.Bits()),
		v4: number(r.IPv4.Addr()), mask4: uint32(^uint64(0) << suffix),
		ea: 1<<r.EABits - 1, eaAt: uint8(endUser - r.IPv6.Bits() - r.EABits),
		more: uint8(max(0, suffix-r.EABits)),
		k:    uint8(k), m: uint8(16 - r.PSIDOffset - k), a: uint8(r.PSIDOffset),
		psid: r.PSID, index: index,
	}
}

// psidOf is the PSID that has a port; ok is false where no CE has it.
func (r *rule) psidOf(port uint16) (psid uint16, ok bool) {
	psid = port >> r.m & (1<<r.k - 1) // rule 1.8.psid
	switch {
	case r.k == 0:
		return 0, true
	case r.a > 0 && port>>(16-r.a) == 0: // rule 1.8.offset
		return 0, false
	case r.ea == 0:
		return psid, psid == r.psid
	}
	return psid, true
}

// to6 is the address of the CE that has an address and a PSID.
func (r *rule) to6(a uint32, psid uint16) (hi, lo uint64) {
	ea := uint64(a&^r.mask4)>>r.more<<r.k | uint64(psid) // rule 1.8.ea
	if r.ea == 0 {
		ea = 0
	}
	return r.hi6 | ea<<r.eaAt, uint64(a)<<16 | uint64(psid) // rule 1.8.identifier
}

// to4 is what the CE with an IPv6 address has; ok is false where no CE has it.
func (r *rule) to4(hi, lo uint64) (a uint32, psid uint16, ok bool) {
	ea := hi >> r.eaAt & r.ea
	a, psid = r.v4|uint32(ea>>r.k<<r.more), uint16(ea)&(1<<r.k-1)
	if r.ea == 0 {
		psid = r.psid
	}
	a |= uint32(lo>>16) & (1<<r.more - 1)
	wantHi, wantLo := r.to6(a, psid)
	return a, psid, hi == wantHi && lo == wantLo // rule 1.8.source
}

// first is the first run of the ports of a PSID.
func (r *rule) first(psid uint16) ports.Range {
	start := psid << r.m
	if r.a > 0 {
		start |= 1 << (16 - r.a)
	}
	return ports.Range{First: start, Last: start | (1<<r.m - 1)}
}
