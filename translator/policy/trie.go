package policy

import (
	"math/bits"
	"slices"
)

// The trie finds the class of an IPv4 address in at most three steps, by its first 16
// bits, the next 8 and the last 8. Most are found in the first, and with one line of the
// processor's cache: the most common class of 65,536 addresses stands there, and which
// 1024 of them each it is of. What stands below a step is a chunk of 256 classes
// or further chunks, of which only those are kept that differ from the one before
// (Degermark et al., Small Forwarding Tables for Fast Routing Lookups, 1997): a
// hundred thousand networks far from each other would take 150 MB otherwise.
type trie struct {
	top    []head // by the first 16 bits
	chunks []chunk
	values []uint32
}

// head has a bit for each 64th of its addresses that is not all of its class.
type head struct {
	differs uint64
	class   uint32
	value   uint32 // where it is not
}

// node marks a value that is the number of a chunk; else it is a class.
const node = 1 << 31

// chunk has a bit for each of 256 values that differs from the one before it. It is 40
// bytes in the kernel's map as well.
type chunk struct {
	bits   [4]uint64
	base   uint32   // of its values
	before [4]uint8 // bits in the words before
}

func (t *trie) under(number, i uint32) uint32 {
	c := &t.chunks[number]
	word := i >> 6 & 3
	n := uint32(c.before[word]) + uint32(bits.OnesCount64(c.bits[word]<<(63-i&63)))
	return t.values[c.base+n-1]
}

// class is that of an address.
func (t *trie) class(a uint32) uint32 {
	h := &t.top[a>>16]
	if h.differs>>(a>>10&63)&1 == 0 {
		return h.class
	}
	v := h.value
	if v&node != 0 {
		if v = t.under(v&^node, a>>8&255); v&node != 0 {
			v = t.under(v&^node, a&255)
		}
	}
	return v
}

// span is addresses of one class, from first to where the next span begins.
type span struct{ first, class uint32 }

// newTrie makes a trie of spans that cover all addresses in order.
func newTrie(spans []span) trie {
	t := trie{top: make([]head, 1<<16)}
	for i := range t.top {
		first := uint32(i) << 16
		spans = at(spans, first)
		t.top[i] = t.head(t.build(spans, first, 16))
	}
	return t
}

// head makes the head of a value.
func (t *trie) head(v uint32) head {
	if v&node == 0 {
		return head{class: v, value: v}
	}
	var parts [64]uint32 // the class of each, or node
	for i := range parts {
		parts[i] = t.under(v&^node, uint32(4*i))
		for j := 4*i + 1; j < 4*i+4 && parts[i]&node == 0; j++ {
			if t.under(v&^node, uint32(j)) != parts[i] {
				parts[i] = node
			}
		}
	}
	h := head{class: mostCommon(parts[:]), value: v}
	for i, p := range parts {
		if p&node != 0 || p != h.class {
			h.differs |= 1 << i
		}
	}
	return h
}

// mostCommon is the class that most of the parts are of.
func mostCommon(parts []uint32) (class uint32) {
	most := 0
	for i, p := range parts {
		n := 0
		for _, other := range parts[i:] {
			if other == p && p&node == 0 {
				n++
			}
		}
		if n > most {
			class, most = p, n
		}
		if 2*most >= len(parts) {
			break
		}
	}
	return class
}

// at leaves out the spans that end before an address.
func at(spans []span, first uint32) []span {
	for len(spans) > 1 && spans[1].first <= first {
		spans = spans[1:]
	}
	return spans
}

// build is the value for the addresses from first on that 32−size bits have in common.
func (t *trie) build(spans []span, first uint32, size int) uint32 {
	last := first | (1<<size - 1)
	if size == 0 || len(spans) == 1 || spans[1].first > last {
		return spans[0].class
	}
	var values [256]uint32
	size -= 8
	for i := range values {
		a := first | uint32(i)<<size
		spans = at(spans, a)
		values[i] = t.build(spans, a, size)
	}
	return t.chunk(&values)
}

func (t *trie) chunk(values *[256]uint32) uint32 {
	c := chunk{base: uint32(len(t.values))}
	n := 0
	for i, v := range values {
		if i&63 == 0 {
			c.before[i>>6] = uint8(n)
		}
		if i == 0 || v != values[i-1] {
			c.bits[i>>6] |= 1 << (i & 63)
			t.values = append(t.values, v)
			n++
		}
	}
	t.chunks = append(t.chunks, c)
	return node | uint32(len(t.chunks)-1)
}

// network is a prefix that a rule speaks of.
type network struct {
	first  uint32
	length uint8
	rule   uint32
}

func (n network) last() uint32 { return n.first | uint32(uint64(1)<<(32-n.length)-1) }

// classes are what addresses are told apart by: two are of one class where the same
// rules speak of both.
type classes struct {
	list []class
	of   map[[2]uint32]uint32 // by parent and set
	sets map[string]uint32    // of more than one rule
}

type class struct {
	parent uint32   // of the network around; class 0 is no network's, and its own
	rules  []uint32 // of its own networks, in order
}

// newClasses finds the classes of networks, and what addresses are in each.
func newClasses(networks []network, rules int) (*classes, []span) {
	slices.SortFunc(networks, func(a, b network) int {
		ka, kb := uint64(a.first)<<8|uint64(a.length), uint64(b.first)<<8|uint64(b.length)
		switch {
		case ka < kb:
			return -1
		case ka > kb:
			return 1
		}
		return int(a.rule) - int(b.rule)
	})
	c := &classes{list: []class{{}}, of: make(map[[2]uint32]uint32, len(networks)), sets: map[string]uint32{}}
	spans := make([]span, 1, 2*len(networks)+1)
	type open struct{ last, class uint32 }
	stack := []open{{^uint32(0), 0}}
	begin := func(first, class uint32) {
		if n := len(spans); spans[n-1].first == first {
			spans[n-1].class = class
		} else if spans[n-1].class != class {
			spans = append(spans, span{first, class})
		}
	}
	leave := func(before uint64) { // those that end before an address
		for len(stack) > 1 && uint64(stack[len(stack)-1].last) < before {
			end := stack[len(stack)-1].last
			stack = stack[:len(stack)-1]
			if end != ^uint32(0) {
				begin(end+1, stack[len(stack)-1].class)
			}
		}
	}
	ids := make([]uint32, len(networks))
	for i, n := range networks {
		ids[i] = n.rule
	}
	for i := 0; i < len(networks); {
		end := i + 1
		for end < len(networks) && networks[end].first == networks[i].first && networks[end].length == networks[i].length {
			end++
		}
		leave(uint64(networks[i].first))
		own := slices.Compact(ids[i:end:end])
		n := c.number(stack[len(stack)-1].class, own, rules)
		begin(networks[i].first, n)
		stack = append(stack, open{networks[i].last(), n})
		i = end
	}
	leave(1 << 32)
	return c, spans
}

// number is the class of networks inside of another's that a set of rules speaks of.
func (c *classes) number(parent uint32, rules []uint32, count int) uint32 {
	set := rules[0]
	if len(rules) > 1 {
		key := string(words(rules))
		id, ok := c.sets[key]
		if !ok {
			id = uint32(count + 1 + len(c.sets))
			c.sets[key] = id
		}
		set = id
	}
	key := [2]uint32{parent, set}
	n, ok := c.of[key]
	if !ok {
		n = uint32(len(c.list))
		c.list = append(c.list, class{parent, rules})
		c.of[key] = n
	}
	return n
}
