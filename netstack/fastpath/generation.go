//go:build linux

package fastpath

import (
	"errors"
	"fmt"

	"github.com/natless/natless/translator/mapping"
)

// generation is tables, and the maps that hold them.
type generation struct {
	tables *Tables // as last written; nil: there are none
	inner  inner
	state
}

func (g *generation) edit(t *Tables, removed, added []mapping.Mapping) error {
	for _, m := range removed {
		if err := g.remove(t, m); err != nil {
			return err
		}
	}
	for _, m := range added {
		if err := g.insert(t, m); err != nil {
			return err
		}
	}
	return nil
}

func (g *generation) remove(t *Tables, m mapping.Mapping) error {
	var was programEntry6
	if err := g.inner.by6.Lookup(key6(m.IPv6), &was); err != nil {
		return err
	}
	g.count(t, m, -1)
	err := g.inner.by6.Delete(key6(m.IPv6))
	if m.Inside {
		err = errors.Join(err, g.removeInside(was.Slot))
	}
	if m.Ports.IsZero() {
		return errors.Join(err, g.inner.by4.Delete(key4(m.IPv4)))
	}
	err = errors.Join(err, g.putHead(m))
	for k := range portKeys(m) {
		err = errors.Join(err, g.inner.ports.Delete(k))
	}
	return err
}

// putHead writes the entry of a shared address, or takes it away.
func (g *generation) putHead(m mapping.Mapping) error {
	v4 := mapping.Addr4From(m.IPv4.Addr())
	if g.shared[v4] == nil {
		return g.inner.by4.Delete(key4(m.IPv4))
	}
	head := g.head(v4)
	return g.inner.by4.Put(key4(m.IPv4), &head)
}

func (g *generation) insert(t *Tables, m mapping.Mapping) error {
	e := t.Table.Get(m.IPv6)
	if e == nil || int(e.Slot()) >= g.inner.slots {
		return fmt.Errorf("mapping %v: no room in the fast path", m)
	}
	before := g.near
	g.count(t, m, 1)
	if err := g.putNear(&before); err != nil {
		return err
	}
	entry := encode4(m, e)
	for k := range portKeys(m) {
		owner := encodePort(m, e, k)
		if err := g.inner.ports.Put(k, &owner); err != nil {
			return err
		}
	}
	var err error
	if m.Ports.IsZero() {
		err = g.inner.by4.Put(key4(m.IPv4), &entry)
	} else {
		err = g.putHead(m)
	}
	if err != nil {
		return err
	}
	key, entry6 := encode6(t, m, e)
	if m.Inside {
		if err := g.putInside(t, m, e, entry6); err != nil {
			return err
		}
	}
	return g.inner.by6.Put(key, &entry6)
}

// putNear writes what is different from before.
func (g *generation) putNear(before *[nearWords]uint64) error {
	for i := range g.near {
		if g.near[i] != before[i] {
			if err := g.inner.near.Put(uint32(i), g.near[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
