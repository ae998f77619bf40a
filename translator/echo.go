package translator

import (
	"encoding/binary"
	"math/bits"

	"github.com/natless/natless/translator/mapping"
	"github.com/natless/natless/translator/ports"
)

// A workload that shares its IPv4 address may use only echo identifiers out of
// its port set. Another identifier is folded into the set, and the original
// travels in a trailer behind the echo data, which the other end sends back:
//
//	magic (2) | original identifier (2) | tag (4)
//
// The tag keeps anybody but us from having an identifier rewritten.
const (
	sizeTrailer  = 8
	magicTrailer = 0x6e6c // "nl"
)

// tagEcho is a tag over workload, original identifier and sequence number.
func tagEcho(key *[16]byte, workload mapping.Addr6, id, sequence uint16) uint32 {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], workload.Hi)
	binary.BigEndian.PutUint64(b[8:], workload.Lo)
	binary.BigEndian.PutUint16(b[16:], id)
	binary.BigEndian.PutUint16(b[18:], sequence)
	return uint32(siphash(key, b[:]))
}

// foldEcho replaces the identifier of an echo message by one out of the range r
// and appends the trailer. l4 has sizeTrailer bytes of room behind the message.
func foldEcho(key *[16]byte, workload mapping.Addr6, r ports.Range, l4 []byte) {
	data := len(l4) - sizeTrailer
	id := binary.BigEndian.Uint16(l4[4:])
	folded := r.First + uint16(uint32(id)%(uint32(r.Last-r.First)+1))
	trailer := l4[data:]
	binary.BigEndian.PutUint16(trailer, magicTrailer)
	binary.BigEndian.PutUint16(trailer[2:], id)
	binary.BigEndian.PutUint32(trailer[4:], tagEcho(key, workload, id, binary.BigEndian.Uint16(l4[6:])))
	binary.BigEndian.PutUint16(l4[4:], folded)
	diff := difference(uint64(id), uint64(folded)+trailerSum(trailer, data))
	binary.BigEndian.PutUint16(l4[2:], update(binary.BigEndian.Uint16(l4[2:]), diff))
}

// trailed says that an echo message ends with a valid trailer.
func trailed(key *[16]byte, workload mapping.Addr6, l4 []byte) bool {
	data := len(l4) - sizeTrailer
	if data < sizeICMP {
		return false
	}
	trailer := l4[data:]
	id := binary.BigEndian.Uint16(trailer[2:])
	return binary.BigEndian.Uint16(trailer) == magicTrailer &&
		binary.BigEndian.Uint32(trailer[4:]) == tagEcho(key, workload, id, binary.BigEndian.Uint16(l4[6:]))
}

// unfoldEcho restores the identifier of an echo message that ends with a valid
// trailer, and says how many bytes to cut off its end.
func unfoldEcho(key *[16]byte, workload mapping.Addr6, l4 []byte) int {
	if !trailed(key, workload, l4) {
		return 0
	}
	data := len(l4) - sizeTrailer
	trailer := l4[data:]
	id := binary.BigEndian.Uint16(trailer[2:])
	folded := binary.BigEndian.Uint16(l4[4:])
	binary.BigEndian.PutUint16(l4[4:], id)
	diff := difference(uint64(folded)+trailerSum(trailer, data), uint64(id))
	binary.BigEndian.PutUint16(l4[2:], update(binary.BigEndian.Uint16(l4[2:]), diff))
	return sizeTrailer
}

// trailerSum is what a trailer adds to the sum of a message in which it starts
// at byte at: behind an odd number of bytes its words are swapped.
func trailerSum(trailer []byte, at int) uint64 {
	s := fold(sum(trailer))
	if at%2 != 0 {
		s = bits.ReverseBytes16(s)
	}
	return uint64(s)
}
