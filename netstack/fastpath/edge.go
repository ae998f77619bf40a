//go:build linux

package fastpath

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/mapping"
)

// The blocks that a host at the edge of a fabric has there lie in the maps of the mappings,
// under keys of their own.

// blocks is what lies in the maps of an edge's blocks.
type blocks struct {
	six   map[programKey6]programEntry6
	four  map[programKey4]programEntry4
	ports map[programKeyPort]programEntry4
	in6   [129]int // blocks with an address of that length
	in4   [33]int
}

func blocksOf(e translator.Edge) blocks {
	b := blocks{map[programKey6]programEntry6{}, map[programKey4]programEntry4{}, map[programKeyPort]programEntry4{}, [129]int{}, [33]int{}}
	for _, m := range e.Blocks {
		six, four, at := key6(m.IPv6), key4(m.IPv4), mapping.Addr6From(m.IPv6.Addr())
		six.Length |= keyBlock
		four.Length |= keyBlock
		b.in6[m.IPv6.Bits()]++
		b.in4[m.IPv4.Bits()]++
		b.six[six] = programEntry6{V4: mapping.Addr4From(m.IPv4.Addr()), Length4: uint8(m.IPv4.Bits())}
		entry := programEntry4{Hi: at.Hi, Lo: at.Lo, Length6: uint32(m.IPv6.Bits())}
		head := b.four[four] // of an address that several blocks have ports of
		for k := range portKeys(m) {
			head.Sizes |= 1 << k.Size
			k.Size |= keyBlock
			b.ports[k] = entry
		}
		if m.Ports.IsZero() {
			head = entry
		}
		b.four[four] = head
	}
	return b
}

// encode adds the blocks to what lies in the maps.
func (b blocks) encode(c *contents) {
	for k, e := range b.four {
		c.keys4, c.entries4 = append(c.keys4, k), append(c.entries4, e)
	}
	for k, e := range b.ports {
		c.keysPort, c.ownerPort = append(c.keysPort, k), append(c.ownerPort, e)
	}
}

// encode6 is encode for what packets of the fabric are known by.
func (b blocks) encode6(c *contents) {
	for k, e := range b.six {
		c.keys6, c.entries6 = append(c.keys6, k), append(c.entries6, e)
	}
}

// put has the maps hold these blocks, too.
func (b blocks) put(n *inner, before blocks) error {
	if err := putNew(n.by6, b.six, before.six); err != nil {
		return err
	}
	if err := putNew(n.ports, b.ports, before.ports); err != nil {
		return err
	}
	return putNew(n.by4, b.four, before.four)
}

// remove takes those away that are no longer there.
func (b blocks) remove(n *inner, after blocks) error {
	if err := deleteGone(n.by6, b.six, after.six); err != nil {
		return err
	}
	if err := deleteGone(n.by4, b.four, after.four); err != nil {
		return err
	}
	return deleteGone(n.ports, b.ports, after.ports)
}

func putNew[K binKey, V binEntry](m *bins[K, V], want, have map[K]V) error {
	for k, v := range want {
		if was, ok := have[k]; ok && was == v {
			continue
		}
		if err := m.Put(k, &v); err != nil {
			return fmt.Errorf("blocks of the edge: %w", err)
		}
	}
	return nil
}

func deleteGone[K binKey, V binEntry](m *bins[K, V], have, want map[K]V) error {
	for k := range have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := m.Delete(k); err != nil {
			return fmt.Errorf("blocks of the edge: %w", err)
		}
	}
	return nil
}

// fabricConfig is what the configuration has of an edge.
func fabricConfig(t *Tables, c *programConfig) error {
	e := t.Config.Edge
	if !e.Enabled() {
		return nil
	}
	p, mask := mapping.Addr6From(e.Prefix.Masked().Addr()), mask6(e.Prefix.Bits())
	c.Flags |= flagEdge
	c.FabricHi, c.FabricLo, c.FabricMaskHi, c.FabricMaskLo, c.FabricLength = p.Hi, p.Lo, mask.Hi, mask.Lo, uint32(e.Prefix.Bits())
	c.Hop4 = mapping.Addr4From(t.Config.Hop4())
	if slices.ContainsFunc(e.Blocks, func(m mapping.Mapping) bool { return m.IPv6.Overlaps(e.Prefix) }) {
		c.Flags |= flagOursInFabric
	}
	b := blocksOf(e)
	for length := 128; length >= 0; length-- {
		if b.in6[length] == 0 {
			continue
		}
		if int(c.CountBlocks6) == maxLengths {
			return &UnsupportedError{fmt.Sprintf("edge.blocks have IPv6 prefixes of over %d lengths", maxLengths)}
		}
		at := mask6(length)
		l := &c.Blocks6[c.CountBlocks6]
		l.MaskHi, l.MaskLo, l.Length = at.Hi, at.Lo, uint32(length)
		c.CountBlocks6++
	}
	for length := 32; length >= 0; length-- {
		if b.in4[length] == 0 {
			continue
		}
		if int(c.CountBlocks4) == maxLengths {
			return &UnsupportedError{fmt.Sprintf("edge.blocks have IPv4 prefixes of over %d lengths", maxLengths)}
		}
		l := &c.Blocks4[c.CountBlocks4]
		l.Mask, l.Length = ^uint32(0)<<(32-length), uint32(length)
		c.CountBlocks4++
	}
	return nil
}

// overlapsFabric says that a mapping's IPv6 prefix overlaps that of an edge's fabric.
func overlapsFabric(t *Tables, p netip.Prefix) bool {
	return t.Config.Edge.Enabled() && p.Overlaps(t.Config.Edge.Prefix)
}
