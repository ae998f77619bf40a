package policy

import (
	"encoding/binary"
	"slices"
)

// Compile makes a table of policies, in which no number has been compiled: With does.
func Compile(all []Policy, ledger *Ledger) (*Table, error) {
	t := &Table{ledger: ledger, of: new(byte), policies: Ordered(all)}
	var networks []network
	ledger.mu.Lock()
	defer ledger.mu.Unlock()
	for position := range t.policies {
		p := &t.policies[position]
		for d := range numDirections {
			for i, rule := range p.Rules(d) {
				r := &Rules{Policy: p, Direction: d, Rule: rule, Index: i, position: position}
				r.Counter = ledger.counter(r.ID())
				t.rules = append(t.rules, r)
				networks = appendNetworks(networks, rule, uint32(len(t.rules)))
			}
		}
	}
	classes, spans := newClasses(networks, len(t.rules))
	t.classes, t.trie = classes.list, newTrie(spans)
	t.decisions = []Decision{accepted: {Allow: true, Would: true}, unjudged: {}, unknown: {}}
	t.cells, t.plains, t.plainOf = make([]cell, 1), make([]cell, 1), make([]uint32, 1)
	for d := range t.cells[0] {
		for s := range t.cells[0][d] {
			t.cells[0][d][s] = unknown
		}
	}
	return t, nil
}

func appendNetworks(networks []network, rule Rule, number uint32) []network {
	for _, p := range rule.Networks {
		if p.Addr().Is4() {
			a := p.Masked().Addr().As4()
			networks = append(networks, network{binary.BigEndian.Uint32(a[:]), uint8(p.Bits()), number})
		}
	}
	return networks
}

// builder adds rows to a table that it has to itself.
type builder struct {
	table     *Table
	decisions map[Decision]uint32
	cells     map[cell]uint32
	leaves    map[leaf]uint32
	audits    bool

	plains      map[cell]uint32
	plainRanges map[string]ref
}

// newBuilder begins a table that has what t has. Of its own it has what it appends.
func newBuilder(t *Table) *builder {
	own := *t
	own.rows, own.pages, own.leaves = slices.Clone(t.rows), slices.Clip(t.pages), slices.Clip(t.leaves)
	own.cells, own.ranges, own.decisions = slices.Clip(t.cells), slices.Clip(t.ranges), slices.Clip(t.decisions)
	own.plainLeaves, own.plains = slices.Clip(t.plainLeaves), slices.Clip(t.plains)
	own.plainRanges, own.plainOf = slices.Clip(t.plainRanges), slices.Clip(t.plainOf)
	b := &builder{table: &own, decisions: map[Decision]uint32{}, cells: map[cell]uint32{}, leaves: map[leaf]uint32{},
		plains: map[cell]uint32{}, plainRanges: map[string]ref{}}
	b.known()
	for i, d := range own.decisions {
		if i != unjudged && i != unknown {
			b.decisions[d] = uint32(i)
		}
	}
	return b
}

// row compiles what a number stands for, class by class: one whose own networks none
// of its rules speaks of is as the class around it.
func (b *builder) row(number uint16) error {
	t := b.table
	in := t.positions(number)
	b.audits = false
	for i, yes := range in {
		b.audits = b.audits || yes && t.policies[i].Audit
	}
	matched, cells := make([][]uint32, len(t.classes)), make([]uint32, len(t.classes))
	for c := range t.classes {
		var own []uint32
		for _, r := range t.classes[c].rules {
			if in[t.rules[r-1].position] {
				own = append(own, r)
			}
		}
		parent := t.classes[c].parent
		if len(own) == 0 && c != 0 {
			matched[c], cells[c] = matched[parent], cells[parent]
			continue
		}
		matched[c] = union(matched[parent], own)
		n, err := b.cell(matched[c])
		if err != nil {
			return err
		}
		cells[c] = n
	}
	for len(t.rows) <= int(number) {
		t.rows = append(t.rows, noRow)
	}
	t.rows[number] = uint32(len(t.pages))
	for at := 0; at < len(cells); at += pageLen {
		var l, plain leaf
		copy(l[:], cells[at:])
		n, ok := b.leaves[l]
		if !ok {
			n = uint32(len(t.leaves))
			for i, c := range l {
				plain[i] = t.plainOf[c]
			}
			t.leaves, t.plainLeaves = append(t.leaves, l), append(t.plainLeaves, plain)
			b.leaves[l] = n
		}
		t.pages = append(t.pages, n)
	}
	return nil
}

// union is two ordered lists as one, in which nothing is twice.
func union(a, b []uint32) []uint32 {
	if len(a) == 0 {
		return b
	}
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

// cell compiles the rules that speak of a class.
func (b *builder) cell(rules []uint32) (uint32, error) {
	var c cell
	t := b.table
	for d := range numDirections {
		some := make([]uint32, 0, len(rules))
		for _, r := range rules {
			if t.rules[r-1].Direction == d {
				some = append(some, r)
			}
		}
		for slot := range c[d][:numSlots] {
			r, err := b.ref(some, slot)
			if err != nil {
				return 0, err
			}
			c[d][slot] = r
		}
	}
	n, ok := b.cells[c]
	if !ok {
		n = uint32(len(t.cells))
		t.cells, t.plainOf = append(t.cells, c), append(t.plainOf, b.plain(&c))
		b.cells[c] = n
	}
	return n, nil
}

// ref compiles the rules of a direction for a protocol.
func (b *builder) ref(rules []uint32, slot int) (ref, error) {
	t := b.table
	starts := []int{0}
	if slot < slotICMP {
		for _, r := range rules {
			for _, p := range t.rules[r-1].Protocols {
				if p.Number == numbers[slot] && !p.whole() {
					starts = append(starts, int(p.Ports.First), int(p.Ports.Last)+1)
				}
			}
		}
	}
	slices.Sort(starts)
	var list []uint32
	for _, start := range slices.Compact(starts) {
		if start > 65535 {
			break
		}
		n, err := b.number(b.evaluate(rules, numbers[slot], uint16(start)))
		if err != nil {
			return 0, err
		}
		if len(list) == 0 || list[len(list)-1]&0xffff != n {
			list = append(list, uint32(start)<<16|n)
		}
	}
	if len(list) == 1 {
		n := list[0] & 0xffff
		if d := t.decisions[n]; d.Allow && d.Would {
			return ref(n) | plainly, nil
		}
		return ref(n), nil
	}
	at := ref(len(t.ranges))
	t.ranges = append(append(t.ranges, uint32(len(list))), list...)
	return byPort | at, nil
}

func (b *builder) number(d Decision) (uint32, error) {
	n, ok := b.decisions[d]
	if !ok {
		if n = uint32(len(b.table.decisions)); n >= maxDecisions {
			return 0, ErrMany
		}
		b.table.decisions = append(b.table.decisions, d)
		b.decisions[d] = n
	}
	return n, nil
}

// evaluate is what rules of one direction that all speak of the remote say of a
// protocol and port.
func (b *builder) evaluate(rules []uint32, proto uint8, port uint16) (d Decision) {
	d.Rule = b.first(rules, proto, port, false)
	d.Allow = d.Rule == 0 || b.table.rules[d.Rule-1].Action == Accept
	d.Would = d.Allow
	if b.audits {
		d.Audit = b.first(rules, proto, port, true)
		d.Would = d.Audit == 0 || b.table.rules[d.Audit-1].Action == Accept
	}
	if d.Audit == d.Rule {
		d.Audit = 0 // the same decision, whether or not anything is audited
	}
	if !d.Allow {
		d.Answer = b.table.rules[d.Rule-1].Policy.Answer
	}
	return d
}

// first is the first rule that decides; 0 is none.
func (b *builder) first(rules []uint32, proto uint8, port uint16, audits bool) uint32 {
	tier, skip := numTiers, false // that is being skipped
	for _, n := range rules {
		r := b.table.rules[n-1]
		if r.Policy.Tier != tier {
			tier, skip = r.Policy.Tier, false
		}
		if skip || r.Policy.Audit && !audits || !r.matches(proto, port) {
			continue
		}
		if r.Action != Pass {
			return n
		}
		skip = true
	}
	return 0
}

func (r *Rules) matches(proto uint8, port uint16) bool {
	if r.Protocols == nil {
		return true
	}
	for _, p := range r.Protocols {
		if p.Number == proto && (p.whole() || p.Ports.Contains(port)) {
			return true
		}
	}
	return false
}
