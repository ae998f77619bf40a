package attach

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// TestCovering: a table without a mapping covers nothing, which is not everything: no rule
// can match a packet of nobody's.
func TestCovering(t *testing.T) {
	var c covering
	if list := c.list(); list == nil || len(list) > 0 {
		t.Errorf("nothing is covered by %#v", list)
	}
	c.add(netip.MustParsePrefix("2001:db8:6::2/128"), 64, 32)
	if list := c.list(); len(list) != 1 || list[0].String() != "2001:db8:6::/64" {
		t.Errorf("one is covered by %v", list)
	}
	for i := range uint32(2 * mostCovering) { // that have nothing in common
		var a [16]byte
		binary.BigEndian.PutUint32(a[:], 0x20000000+i)
		c.add(netip.PrefixFrom(netip.AddrFrom16(a), 128), 64, 32)
	}
	if list := c.list(); list != nil {
		t.Errorf("too many are covered by %v", list)
	}
}
