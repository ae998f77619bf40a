package mapping

import "net/netip"

func (t *Table) setPrefix(p netip.Prefix) {
	t.prefix, t.embedded, t.inPrefix = p, newRFC6052(p), 0
	if !p.IsValid() {
		t.inPrefix = 1 // no address is known to have no mapping
	}
}

// SetPrefix gives the table another RFC 6052 prefix (the zero value: none). Every mapping
// keeps its slot. It takes a look at each.
func (e *Edit) SetPrefix(p netip.Prefix) error {
	if err := ValidatePrefix(p); err != nil {
		return err
	}
	if p == e.t.prefix {
		return nil
	}
	e.t.setPrefix(p)
	for entry := range e.t.Entries() {
		if entry.IPv6().Overlaps(p) {
			e.t.inPrefix++
		}
	}
	return nil
}
