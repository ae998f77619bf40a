// Package mapping is the translation table: the RFC 6052 prefix, explicit
// mappings (RFC 7757) and port sets (RFC 7597). A Table is immutable; an edit
// gives a new one. No I/O, no clock and no goroutine may enter here.
package mapping

import "net/netip"

// PortRange is a run of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// PortSet is a list of sorted, disjoint ranges. An empty set means that the
// mapping owns its IPv4 addresses whole, ports and all.
type PortSet []PortRange

// Mapping ties an IPv6 prefix to an IPv4 prefix (RFC 7757 section 3.1), where
// Ports is not empty to a share of one IPv4 address. Its suffix in IPv4
// (32 − length) must not be longer than that in IPv6 (128 − length).
type Mapping struct {
	IPv6  netip.Prefix
	IPv4  netip.Prefix
	Ports PortSet
}

// Addr6 is an IPv6 address as two big-endian halves, which is how the hot path
// compares, shifts and hashes it.
type Addr6 struct{ Hi, Lo uint64 }
