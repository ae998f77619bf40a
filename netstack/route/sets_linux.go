package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// elementsAtOnce is how many fit into one message: an attribute has less than
// 64 KiB. It is even, so that no interval is torn.
const elementsAtOnce = 512

func (k *linuxKernel) addElements(s *nftables.Set, all []nftables.SetElement) error {
	for some := range slices.Chunk(all, elementsAtOnce) {
		if err := k.nft.SetAddElements(s, some); err != nil {
			return err
		}
	}
	return nil
}

// changeContent replaces what a set holds in one transaction.
func (k *linuxKernel) changeContent(c nftContent) error {
	all, err := c.parse()
	if err != nil {
		return err
	}
	set := &nftables.Set{
		Table: &nftables.Table{Name: nftTableName, Family: familyOf(c.family)},
		Name:  c.set, Interval: true,
	}
	k.nft.FlushSet(set)
	if err := k.addElements(set, intervals(all)); err != nil {
		return err
	}
	set = &nftables.Set{Table: set.Table, Name: headSets[c.set]}
	k.nft.FlushSet(set)
	if err := k.addElements(set, headElements(all)); err != nil {
		return err
	}
	return k.nft.Flush()
}

// readContents reads the sets of addresses of a table of ours.
func (k *linuxKernel) readContents(table *nftables.Table, have state) error {
	sets, err := k.nft.GetSets(table)
	if err != nil {
		return fmt.Errorf("list nftables sets: %w", err)
	}
	for _, s := range sets {
		if !s.Interval || s.Anonymous {
			continue
		}
		elements, err := k.nft.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("list nftables set %s: %w", s.Name, err)
		}
		all := fromIntervals(elements)
		text := rangesText(all)
		if same, err := k.hasHeads(table, headSets[s.Name], all); err != nil {
			return err
		} else if !same {
			text = "without what is looked at first"
		}
		have.add(nftContent{familyName(table.Family), s.Name, text})
	}
	return nil
}

// hasHeads reports whether a set has the heads of ranges.
func (k *linuxKernel) hasHeads(table *nftables.Table, set string, all []addrRange) (bool, error) {
	elements, err := k.nft.GetSetElements(&nftables.Set{Table: table, Name: set})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list nftables set %s: %w", set, err)
	}
	have := make([]uint32, len(elements))
	for i, e := range elements {
		have[i] = binary.BigEndian.Uint32(e.Key)
	}
	slices.Sort(have)
	return slices.Equal(have, heads(all)), nil
}
