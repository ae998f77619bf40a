package explain

import (
	"fmt"
	"net/netip"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// lookup describes the mapping that the table finds for an address, or "".
func lookup(table *mapping.Table, a netip.Addr, port uint16) string {
	if a.Is6() {
		if e := table.Lookup6(mapping.Addr6From(a)); e != nil {
			return fmt.Sprintf("mapping %v", e.Mapping())
		}
		return ""
	}
	v4 := mapping.Addr4From(a)
	e := table.Lookup4(v4)
	if e == nil {
		return ""
	}
	if !e.Shared() {
		return fmt.Sprintf("mapping %v", e.Mapping())
	}
	if e = table.Port(e, v4, port); e == nil {
		return fmt.Sprintf("a shared address, whose port %d belongs to nobody", port)
	}
	return fmt.Sprintf("mapping %v", e.Mapping())
}

// extract takes the IPv4 address out of an address under the prefix.
func extract(t *translator.Translator, a netip.Addr) (netip.Addr, bool) {
	table := t.Table()
	if !a.Is6() || !table.Prefix().IsValid() || table.Lookup6(mapping.Addr6From(a)) != nil {
		return netip.Addr{}, false
	}
	v4, ok := table.Extract(mapping.Addr6From(a))
	return mapping.Addr4(v4), ok
}
