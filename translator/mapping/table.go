package mapping

import (
	"errors"
	"net/netip"
)

// Table is an immutable snapshot of one RFC 6052 prefix and any number of
// mappings. Every method may be called by any number of goroutines.
type Table struct {
	prefix netip.Prefix
}

// Entry is one mapping as the hot path reads it. It belongs to its Table and
// must not be changed.
type Entry struct{}

var errStub = errors.New("not written yet")

// New builds a table from a prefix (the zero value: none) and mappings. An
// error names the mapping by its index, and both where two collide.
func New(prefix netip.Prefix, mappings []Mapping) (*Table, error) { return &Table{prefix}, nil }

// Insert gives a table that has m besides all that t has; t stays as it is.
// Its cost does not grow with the table.
func (t *Table) Insert(m Mapping) (*Table, error) { return nil, errStub }

// Remove gives a table without m; t stays as it is.
func (t *Table) Remove(m Mapping) (*Table, error) { return nil, errStub }

// Prefix is the RFC 6052 prefix, or the zero Prefix.
func (t *Table) Prefix() netip.Prefix { return t.prefix }

// Len is the number of mappings.
func (t *Table) Len() int { return 0 }

// Lookup6 finds the mapping with the longest IPv6 prefix that covers a, or nil.
func (t *Table) Lookup6(a Addr6) *Entry { return nil }

// Lookup4 finds the mapping with the longest IPv4 prefix that covers a, or nil.
// For an address that workloads share, it is an entry that answers true to
// Shared, and Port decides.
func (t *Table) Lookup4(a uint32) *Entry { return nil }

// Port is the mapping that owns the port of the shared address a, whose entry
// from Lookup4 is e, or nil when nobody owns it.
func (t *Table) Port(e *Entry, a uint32, port uint16) *Entry { return nil }

// Embed puts a into the RFC 6052 prefix (section 2.2). It panics without one.
func (t *Table) Embed(a uint32) Addr6 { return Addr6{} }

// Extract takes the IPv4 address out of a; ok is false when the prefix does
// not cover a.
func (t *Table) Extract(a Addr6) (v4 uint32, ok bool) { return 0, false }

// Shared says that ports decide: the mapping has a port set.
func (e *Entry) Shared() bool { return false }

// To4 and To6 copy the suffix bits that both prefixes have (RFC 7757 3.3).
func (e *Entry) To4(a Addr6) uint32 { return 0 }

// To6 is the other way of To4.
func (e *Entry) To6(a uint32) Addr6 { return Addr6{} }

// Owns says whether port is in the entry's port set; always true without one.
func (e *Entry) Owns(port uint16) bool { return true }

// EchoRange is the longest contiguous run of the port set: echo identifiers
// outside the set are folded into it.
func (e *Entry) EchoRange() PortRange { return PortRange{} }

// IdentificationRange is the share of the 16-bit IPv4 identification space
// that fragments of this workload may use: base | (id & mask). Whole: 0, 0xffff.
func (e *Entry) IdentificationRange() (base, mask uint16) { return 0, 0xffff }

// Slot is a small dense number of this mapping, stable while the mapping stays
// in the table and its successors, for per-workload counters.
func (e *Entry) Slot() uint32 { return 0 }

// Mapping gives the mapping back in words.
func (e *Entry) Mapping() Mapping { return Mapping{} }
