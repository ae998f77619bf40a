//go:build linux

package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/translator/mapping"
)

// putInside writes the entries of a workload with IPv4 inside.
func (g *generation) putInside(t *Tables, m mapping.Mapping, e *mapping.Entry, of programEntry6) error {
	keys, entry := encodeInside(t, m, e, of)
	for _, k := range keys {
		if err := g.inner.inside.Put(k, &entry); err != nil {
			return err
		}
	}
	return nil
}

// removeInside takes those of a slot away.
func (g *generation) removeInside(slot uint32) error {
	var entry, there programEntryInside
	if err := g.inner.inside.Lookup(keyBySlot|slot, &entry); err != nil {
		return err
	}
	err := g.inner.inside.Delete(keyBySlot | slot)
	if entry.Ifindex == 0 || g.inner.inside.Lookup(entry.Ifindex, &there) != nil || there.Of.Slot != slot {
		return err // another workload is there by now
	}
	return errors.Join(err, g.inner.inside.Delete(entry.Ifindex))
}

// Names are the tags by which the programs that have these maps name workloads with IPv4
// inside, as far as the process may look: with the next tables they have others.
func (f *FastPath) Names() map[mapping.Tag]mapping.Addr6 {
	var current uint32
	var in *ebpf.Map
	if f.maps.Active.Lookup(uint32(0), &current) != nil || f.maps.Inside.Lookup(current, &in) != nil {
		return nil
	}
	defer in.Close()
	names := map[mapping.Tag]mapping.Addr6{}
	var key uint32
	var entry programEntryInside
	for all := in.Iterate(); all.Next(&key, &entry); {
		names[mapping.TagOf(entry.Name[:])] = mapping.Addr6{Hi: entry.Hi, Lo: entry.Lo}
	}
	return names
}

// SetInside says that a workload with IPv4 inside sends it through another interface, as
// the tables' Inside has it by now.
func (f *FastPath) SetInside(m mapping.Mapping) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables == nil {
		return errors.New("interface of IPv4 inside: the fast path has no tables: replace them first")
	}
	e := f.tables.Table.Get(m.IPv6)
	if e == nil {
		return fmt.Errorf("interface of %v: it is not in the table", m)
	}
	_, entry6 := encode6(f.tables, m, e)
	var before programEntryInside
	known := f.inner.inside.Lookup(keyBySlot|e.Slot(), &before) == nil
	if err := f.putInside(f.tables, m, e, entry6); err != nil {
		return fmt.Errorf("interface of %v: %w", m, err)
	}
	var there programEntryInside
	ifindex := f.tables.Inside(m)
	if known && before.Ifindex != 0 && before.Ifindex != uint32(ifindex) &&
		f.inner.inside.Lookup(before.Ifindex, &there) == nil && there.Of.Slot == e.Slot() {
		return f.inner.inside.Delete(before.Ifindex)
	}
	return nil
}

// encodeInside is a workload with IPv4 inside, and by which keys it is found: what the
// daemon calls it and, where it is known, its interface.
func encodeInside(t *Tables, m mapping.Mapping, e *mapping.Entry, of programEntry6) (keys []uint32, entry programEntryInside) {
	a := mapping.Addr6From(m.IPv6.Addr())
	entry = programEntryInside{Hi: a.Hi, Lo: a.Lo, Of: of}
	e.Tag().Put(entry.Name[:])
	keys = []uint32{keyBySlot | e.Slot()}
	if t.Inside == nil {
		return keys, entry
	}
	if ifindex := t.Inside(m); ifindex != 0 {
		entry.Ifindex = uint32(ifindex)
		keys = append(keys, entry.Ifindex)
	}
	return keys, entry
}
