// Package prefixes finds values by prefixes of addresses, and what has addresses in common with
// one, in a time that hardly grows with how many there are. Whose they are is its callers'
// business.
package prefixes

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// Tree finds values by prefixes of one family. A copy is another tree: who changes one by an Edit
// of his own copies the nodes on the way, some fifteen for 16,384 prefixes, and shares all others.
// The libraries for it copy a few nodes with hundreds of values each, which takes thirty times
// as long.
type Tree[V any] struct {
	root *node[V]
	size int
}

type node[V any] struct {
	key
	kids  [2]*node[V]
	value *V // nil: two prefixes part here
	edit  Edit
}

// Edit names who may change the nodes that he has made, since nobody else has seen them.
type Edit uint64

var edits atomic.Uint64

// NewEdit is another than all before.
func NewEdit() Edit { return Edit(edits.Add(1)) }

// Len is how many prefixes have a value.
func (t *Tree[V]) Len() int { return t.size }

// key is a prefix, its bits first of all.
type key struct {
	hi, lo uint64
	len    uint8
}

func keyOf(p netip.Prefix) key {
	if p.Addr().Is4() {
		a := p.Addr().As4()
		return key{hi: uint64(binary.BigEndian.Uint32(a[:])) << 32, len: uint8(p.Bits())}
	}
	a := p.Addr().As16()
	return key{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), uint8(p.Bits())}
}

// common is how many bits two have in common.
func (k key) common(o key) uint8 {
	n := bits.LeadingZeros64(k.hi ^ o.hi)
	if n == 64 {
		n += bits.LeadingZeros64(k.lo ^ o.lo)
	}
	return min(uint8(n), k.len, o.len)
}

func (k key) bit(n uint8) int {
	if n < 64 {
		return int(k.hi >> (63 - n) & 1)
	}
	return int(k.lo >> (127 - n) & 1)
}

// Get is the value of a prefix, or the zero value.
func (t *Tree[V]) Get(p netip.Prefix) (v V) {
	if !p.IsValid() {
		return v
	}
	k := keyOf(p)
	for n := t.root; n != nil && k.common(n.key) == n.len; n = n.kids[k.bit(n.len)] {
		if n.len == k.len {
			if n.value != nil {
				return *n.value
			}
			break
		}
	}
	return v
}

// Put gives a prefix a value.
func (t *Tree[V]) Put(p netip.Prefix, v V, by Edit) {
	k := keyOf(p)
	at := &t.root
	for *at != nil {
		n := *at
		c := k.common(n.key)
		if c < n.len { // it is between
			kid := n
			n = &node[V]{key: k, edit: by}
			if n.len = c; c < k.len {
				n.kids[k.bit(c)] = &node[V]{key: k, value: &v, edit: by}
			} else {
				n.value = &v
			}
			n.kids[kid.bit(c)] = kid
			*at = n
			t.size++
			return
		}
		n = n.of(by)
		*at = n
		if c == k.len {
			if n.value == nil {
				t.size++
			}
			n.value = &v
			return
		}
		at = &n.kids[k.bit(c)]
	}
	*at = &node[V]{key: k, value: &v, edit: by}
	t.size++
}

// of is a node that may be changed.
func (n *node[V]) of(by Edit) *node[V] {
	if n.edit == by {
		return n
	}
	own := *n
	own.edit = by
	return &own
}

// Drop takes a prefix away that is there.
func (t *Tree[V]) Drop(p netip.Prefix, by Edit) {
	t.root = t.root.without(keyOf(p), by)
	t.size--
}

func (n *node[V]) without(k key, by Edit) *node[V] {
	n = n.of(by)
	if n.len == k.len {
		n.value = nil
	} else {
		i := k.bit(n.len)
		n.kids[i] = n.kids[i].without(k, by)
	}
	switch {
	case n.value != nil || n.kids[0] != nil && n.kids[1] != nil:
		return n
	case n.kids[0] != nil:
		return n.kids[0]
	}
	return n.kids[1]
}

// Near yields the values of all prefixes that have addresses in common with one.
func (t *Tree[V]) Near(p netip.Prefix) iter.Seq[V] {
	return func(yield func(V) bool) {
		k := keyOf(p)
		for n := t.root; n != nil; n = n.kids[k.bit(n.len)] {
			c := k.common(n.key)
			if c == k.len {
				n.all(yield)
				return
			}
			if c < n.len || n.value != nil && !yield(*n.value) {
				return
			}
		}
	}
}

// All yields the values by the order of addresses, wider prefixes first.
func (t *Tree[V]) All() iter.Seq[V] {
	return func(yield func(V) bool) { t.root.all(yield) }
}

func (n *node[V]) all(yield func(V) bool) bool {
	return n == nil || (n.value == nil || yield(*n.value)) && n.kids[0].all(yield) && n.kids[1].all(yield)
}
