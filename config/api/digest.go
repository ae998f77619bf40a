package api

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// RuleSum is a sum over rules, in any order, by which two sides know that they have the same:
// of the first eight bytes of the SHA-256 of each rule's text.
type RuleSum uint64

// Add counts a rule in.
func (s *RuleSum) Add(r Rule) { *s += sumOf(r) }

// Remove takes out one that is counted in.
func (s *RuleSum) Remove(r Rule) { *s -= sumOf(r) }

func (s RuleSum) String() string { return fmt.Sprintf("%016x", uint64(s)) }

func sumOf(r Rule) RuleSum {
	text := make([]byte, 0, 128)
	text = append(r.IPv4.AppendTo(text), ' ')
	text = append(append(text, r.Ports.String()...), ' ')
	text = append(r.IPv6.AppendTo(text), ' ')
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(text, r.Lease))
	return RuleSum(binary.BigEndian.Uint64(sum[:]))
}
