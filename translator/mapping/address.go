package mapping

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"

	"github.com/natless/natless/translator/special"
)

// Addr6 is an IPv6 address as two big-endian halves, which is how the hot path
// compares, shifts and hashes it.
type Addr6 struct{ Hi, Lo uint64 }

// Addr6From is a as two halves. An IPv4 address becomes its mapped form.
func Addr6From(a netip.Addr) Addr6 {
	b := a.As16()
	return Addr6{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// Addr is a as net/netip has it.
func (a Addr6) Addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b)
}

// Addr4From is the IPv4 address a as a big-endian number. It panics for IPv6.
func Addr4From(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// Addr4 is the big-endian number a as an IPv4 address.
func Addr4(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

// neverTranslated finds the special-purpose block that holds all of p, so that
// no mapping may name it. A shorter prefix that only covers such a block is
// legal; the translator refuses its addresses.
func neverTranslated(p netip.Prefix) (netip.Prefix, bool) {
	if !suspicious(p.Addr()) {
		return netip.Prefix{}, false
	}
	e, ok := special.Within(p)
	return e.Prefix, ok
}

// suspicious spares nearly all addresses the search: it says whether the first
// octet is one that a block that is never translated begins with.
func suspicious(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()[0]
		return b == 0 || b == 127 || b == 169 || b >= 224
	}
	b := a.As16()[0]
	return b == 0 || b >= 0xfe
}

// rfc6052 is a translation prefix (RFC 6052 section 2.2).
type rfc6052 struct {
	addr   Addr6
	mask   Addr6
	length uint8 // 32, 40, 48, 56, 64 or 96; 0 without a prefix
}

// ValidatePrefix says why p cannot be an RFC 6052 prefix. The zero Prefix,
// which means none, is valid.
func ValidatePrefix(p netip.Prefix) error {
	if p == (netip.Prefix{}) {
		return nil
	}
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
	default:
		return fmt.Errorf("prefix %v: length must be 32, 40, 48, 56, 64 or 96 (RFC 6052 2.2)", p)
	}
	if err := checkPrefix(p, "prefix"); err != nil {
		return err
	}
	if a := p.Addr().As16(); p.Bits() == 96 && a[8] != 0 {
		a[8] = 0
		return fmt.Errorf("prefix %v: bits 64 to 71 must be zero (RFC 6052 2.2): did you mean %v?",
			p, netip.PrefixFrom(netip.AddrFrom16(a), 96))
	}
	if e, ok := special.Overlaps(p); ok {
		return fmt.Errorf("prefix %v: holds %v, which is never translated", p, e.Prefix)
	}
	return nil
}

func newRFC6052(p netip.Prefix) rfc6052 {
	if !p.IsValid() {
		return rfc6052{}
	}
	return rfc6052{Addr6From(p.Addr()), mask6(p.Bits()), uint8(p.Bits())}
}

func (p *rfc6052) contains(a Addr6) bool {
	return (a.Hi^p.addr.Hi)&p.mask.Hi|(a.Lo^p.addr.Lo)&p.mask.Lo == 0
}

func mask6(length int) Addr6 {
	return Addr6{^uint64(0) << max(64-length, 0), ^uint64(0) << min(128-length, 64)}
}

// embed puts a behind the prefix, around octet "u", which stays zero.
func (p *rfc6052) embed(a uint32) Addr6 {
	if p.length == 96 {
		return Addr6{p.addr.Hi, p.addr.Lo | uint64(a)} // rule 1.1.96
	}
	top := uint64(a) << 32
	return Addr6{p.addr.Hi | top>>p.length, top << (64 - p.length) >> 8} // rules 1.1.32, 1.1.40, 1.1.48, 1.1.56, 1.1.64
}

// extract takes the address out again and ignores octet "u" and the suffix.
func (p *rfc6052) extract(a Addr6) (v4 uint32, ok bool) {
	if p.length == 96 {
		return uint32(a.Lo), p.contains(a)
	}
	top := a.Hi<<p.length | a.Lo<<8>>(64-p.length) // rule 1.1.octet-u
	return uint32(top >> 32), p.length != 0 && p.contains(a)
}

// Seeds differ from one process to the next, so that nobody can choose
// addresses that collide.
var seed6, seed4 = Addr6{rand.Uint64(), rand.Uint64()}, Addr6{rand.Uint64(), rand.Uint64() | 1}

func hash6(a Addr6) uint64 {
	hi, lo := bits.Mul64(a.Hi^seed6.Hi, a.Lo^seed6.Lo)
	return hi ^ lo
}

func hash4(a uint32) uint64 {
	hi, lo := bits.Mul64(uint64(a)^seed4.Hi, seed4.Lo)
	return hi ^ lo
}
