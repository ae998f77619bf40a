package translator

import (
	"encoding/binary"
	"math/bits"

	"github.com/natless/natless/translator/mapping"
)

// All sums here are ones' complement sums of 16-bit words (RFC 1071). They
// survive being taken 64 bits at a time, since 0xffff divides 2⁶⁴−1.

// fold brings a sum down to 16 bits. It is 0 only for 0.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff // at most 33 bits
	s = s>>16 + s&0xffff     // 18
	s = s>>16 + s&0xffff     // 17
	return uint16(s>>16 + s&0xffff)
}

// add is the sum of a and b with the carry brought around.
func add(a, b uint64) uint64 {
	s, carry := bits.Add64(a, b, 0)
	return s + carry
}

// sum is that of all bytes of b; an odd last byte counts as if a zero byte followed.
func sum(b []byte) uint64 {
	var s, carry uint64
	for len(b) >= 8 {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	var rest [8]byte
	copy(rest[:], b)
	s, carry = bits.Add64(s, binary.BigEndian.Uint64(rest[:]), carry)
	return add(s, carry)
}

// addresses6 and addresses4 are the sums of an address pair, as they stand in
// the pseudo header (RFC 8200 8.1, RFC 9293 3.1).
func addresses6(src, dst mapping.Addr6) uint64 {
	s, carry := bits.Add64(src.Hi, src.Lo, 0)
	s, carry = bits.Add64(s, dst.Hi, carry)
	s, carry = bits.Add64(s, dst.Lo, carry)
	return add(s, carry)
}

func addresses4(src, dst uint32) uint64 { return uint64(src) + uint64(dst) }

// pseudo6 is the sum of the whole IPv6 pseudo header.
func pseudo6(src, dst mapping.Addr6, length int, proto uint8) uint64 {
	return add(addresses6(src, dst), uint64(length)+uint64(proto))
}

// difference is what a sum changes by when words with the sum old become words
// with the sum new.
func difference(old, new uint64) uint16 { return fold(add(^old, new)) }

// update gives a checksum whose words changed by diff (RFC 1624, equation 3).
func update(checksum, diff uint16) uint16 {
	return ^fold(uint64(^checksum) + uint64(diff))
}

// updatePartial is update for a field that holds the pseudo header's sum alone,
// not inverted, which the device completes (VIRTIO 1.2, 5.1.6.2).
func updatePartial(field, diff uint16) uint16 {
	return fold(uint64(field) + uint64(diff))
}
