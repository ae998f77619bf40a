package explain

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// lookup describes the mapping that the table finds for an address, or "".
func lookup(table *mapping.Table, a netip.Addr, port uint16) string {
	if a.Is6() {
		if e := table.Lookup6(addr6(a)); e != nil {
			return describe(e.Mapping())
		}
		return ""
	}
	v4 := binary.BigEndian.Uint32(a.AsSlice())
	e := table.Lookup4(v4)
	if e == nil {
		return ""
	}
	if !e.Shared() {
		return describe(e.Mapping())
	}
	if e = table.Port(e, v4, port); e == nil {
		return fmt.Sprintf("a shared address, whose port %d belongs to nobody", port)
	}
	return describe(e.Mapping())
}

func describe(m mapping.Mapping) string {
	s := fmt.Sprintf("mapping %s ↔ %s", m.IPv6, m.IPv4)
	if len(m.Ports) == 0 {
		return s
	}
	ranges := make([]string, len(m.Ports))
	for i, r := range m.Ports {
		ranges[i] = fmt.Sprintf("%d-%d", r.First, r.Last)
	}
	return s + " ports " + strings.Join(ranges, ",")
}

func addr6(a netip.Addr) mapping.Addr6 {
	b := a.As16()
	return mapping.Addr6{Hi: binary.BigEndian.Uint64(b[:8]), Lo: binary.BigEndian.Uint64(b[8:])}
}

// extract takes the IPv4 address out of an address under the prefix.
func extract(t *translator.Translator, a netip.Addr) (netip.Addr, bool) {
	table := t.Table()
	if !a.Is6() || !table.Prefix().IsValid() || table.Lookup6(addr6(a)) != nil {
		return netip.Addr{}, false
	}
	v4, ok := table.Extract(addr6(a))
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v4))), ok
}
